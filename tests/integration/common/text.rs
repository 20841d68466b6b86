//! The escapes of the contract, written a second time so that the gateway is not checked against
//! itself.

/// How a text travels in a line.
pub fn encode(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            // What follows would make an escape of it: one of the three letters, or a line break's
            // own escape.
            '\\' if matches!(characters.peek(), Some('n' | 'r' | '\\' | '\n' | '\r')) => {
                line.push_str("\\\\");
            }
            other => line.push(other),
        }
    }
    line
}

/// What a travelled text means.
pub fn decode(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        let meaning = match (character, characters.peek()) {
            ('\\', Some('n')) => Some('\n'),
            ('\\', Some('r')) => Some('\r'),
            ('\\', Some('\\')) => Some('\\'),
            _ => None,
        };
        match meaning {
            Some(meaning) => {
                text.push(meaning);
                characters.next();
            }
            None => text.push(character),
        }
    }
    text
}

#[test]
fn encoding_and_decoding_again_gives_the_text() {
    let alphabet = ['\\', 'n', 'r', '\n', '\r', 'x'];
    let mut texts = vec![String::new()];
    for _ in 0..5 {
        let longer: Vec<String> = texts
            .iter()
            .flat_map(|text| alphabet.iter().map(move |last| format!("{text}{last}")))
            .collect();
        for text in &longer {
            let line = encode(text);
            assert!(!line.contains(['\n', '\r']));
            assert_eq!(&decode(&line), text);
        }
        texts = longer;
    }
}
