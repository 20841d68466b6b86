//! What a run found: rows with a target and a verdict, as a table for people and as JSON for
//! programs.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Several measurements of one thing.
#[derive(Clone, Debug)]
pub struct Sample {
    sorted: Vec<f64>,
}

impl Sample {
    /// The sample of these values, of which there must be at least one.
    pub fn new(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "a sample of nothing");
        values.sort_by(f64::total_cmp);
        Self { sorted: values }
    }

    /// The middle value; of an even number, the mean of the middle two.
    pub fn median(&self) -> f64 {
        let middle = self.sorted.len() / 2;
        if self.sorted.len() % 2 == 1 {
            self.sorted[middle]
        } else {
            (self.sorted[middle - 1] + self.sorted[middle]) / 2.0
        }
    }

    /// The least value.
    pub fn least(&self) -> f64 {
        self.sorted[0]
    }

    /// The greatest value.
    pub fn greatest(&self) -> f64 {
        self.sorted[self.sorted.len() - 1]
    }
}

/// What must hold of a row's median.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Nothing is promised.
    None,
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

/// One line of the table.
pub struct Row {
    /// What was measured.
    pub name: String,
    /// In what.
    pub unit: &'static str,
    /// Digits after the point.
    pub digits: usize,
    /// The measurements.
    pub sample: Sample,
    /// What must hold.
    pub target: Target,
    /// Whatever else a reader should know.
    pub note: String,
}

impl Row {
    fn verdict(&self) -> &'static str {
        let met = match self.target {
            Target::None => return "",
            Target::AtMost(limit) => self.sample.median() <= limit,
            Target::AtLeast(limit) => self.sample.median() >= limit,
        };
        if met { "ok" } else { "MISSED" }
    }

    fn cells(&self) -> [String; 5] {
        let digits = self.digits;
        let spread = format!(
            "{:.digits$}–{:.digits$}",
            self.sample.least(),
            self.sample.greatest()
        );
        let target = match self.target {
            Target::None => String::new(),
            Target::AtMost(limit) => format!("≤ {limit}"),
            Target::AtLeast(limit) => format!("≥ {limit}"),
        };
        [
            self.name.clone(),
            format!("{:.digits$} {}", self.sample.median(), self.unit),
            spread,
            target,
            self.verdict().to_owned(),
        ]
    }

    fn json(&self) -> Value {
        let limit = match self.target {
            Target::None => Value::Null,
            Target::AtMost(limit) => json!({ "at_most": limit }),
            Target::AtLeast(limit) => json!({ "at_least": limit }),
        };
        json!({
            "name": self.name,
            "unit": self.unit,
            "median": self.sample.median(),
            "values": self.sample.sorted,
            "target": limit,
            "verdict": self.verdict(),
            "note": self.note,
        })
    }
}

/// All rows of a run, in order.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    facts: Vec<(&'static str, String)>,
}

impl Report {
    /// Adds a row, and says so at once: a run takes minutes.
    pub fn add(&mut self, row: Row) {
        let [name, median, spread, ..] = row.cells();
        eprintln!("  {name}: {median} ({spread}) {}", row.verdict());
        self.rows.push(row);
    }

    /// Adds a circumstance of the run.
    pub fn fact(&mut self, name: &'static str, value: String) {
        eprintln!("{name}: {value}");
        self.facts.push((name, value));
    }

    /// The table, with notes below it.
    pub fn table(&self) -> String {
        let head = [
            "measurement",
            "median",
            "least–greatest",
            "target",
            "verdict",
        ]
        .map(str::to_owned);
        let mut lines = vec![head];
        lines.extend(self.rows.iter().map(Row::cells));
        let mut widths = [0; 5];
        for cells in &lines {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut table = String::new();
        for (number, cells) in lines.iter().enumerate() {
            let padded: Vec<_> = cells
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            table += padded.join("  ").trim_end();
            table.push('\n');
            if number == 0 {
                table += &widths.map(|width| "-".repeat(width)).join("  ");
                table.push('\n');
            }
        }
        table.push('\n');
        for row in self.rows.iter().filter(|row| !row.note.is_empty()) {
            table += &format!("{}: {}\n", row.name, row.note);
        }
        for (name, value) in &self.facts {
            table += &format!("{name}: {value}\n");
        }
        table
    }

    /// How many targets were missed.
    pub fn missed(&self) -> usize {
        self.rows
            .iter()
            .filter(|row| row.verdict() == "MISSED")
            .count()
    }

    /// Writes everything to `path` as JSON.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let facts: serde_json::Map<_, _> = self
            .facts
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value::from(value.clone())))
            .collect();
        let document =
            json!({ "facts": facts, "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>() });
        fs::write(path, format!("{document:#}\n"))
            .with_context(|| format!("writing {}", path.display()))
    }
}
