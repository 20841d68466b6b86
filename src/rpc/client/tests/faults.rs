//! Servers that do whatever they like, in any order, and what must hold all the same.

use proptest::prelude::*;

use super::{super::*, world::*};

/// What a server does next.
#[derive(Clone, Debug)]
enum Step {
    /// A client logs in.
    Call,
    /// A server answers one of its calls, in two pieces.
    Answer {
        line: usize,
        call: usize,
        cut: usize,
    },
    /// A server answers a call that it has answered before.
    Repeat { line: usize, call: usize },
    /// A server answers under a number that another server was given.
    Mislabel { line: usize, call: usize },
    /// A connection breaks, and another is made.
    Lose { line: usize },
    /// Time passes.
    Pass { length_ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let index = 0..100usize;
    prop_oneof![
        4 => Just(Step::Call),
        4 => (index.clone(), index.clone(), index.clone())
            .prop_map(|(line, call, cut)| Step::Answer { line, call, cut }),
        1 => (index.clone(), index.clone()).prop_map(|(line, call)| Step::Repeat { line, call }),
        1 => (index.clone(), index.clone()).prop_map(|(line, call)| Step::Mislabel { line, call }),
        1 => index.prop_map(|line| Step::Lose { line }),
        1 => (1..2000u64).prop_map(|length_ms| Step::Pass { length_ms }),
    ]
}

/// What a server sent comes in two parts. A connection that broke in between takes no more.
fn receive_in_two(world: &World, line: &Line, (head, rest): (&[u8], &[u8])) {
    let received = |part| world.remote.received(&line.server, &line.connection, part);
    let _ = received(head).and_then(|()| received(rest));
}

/// Servers under test conditions of their own, and those who wait for their answers.
struct Servers<'a> {
    world: &'a World,
    wire: Wire,
    /// Each connection, with the calls that came over it and are not answered.
    lines: Vec<(Line, Vec<Asked>)>,
    answered: Vec<Asked>,
    flows: Vec<(String, Flow<'a>)>,
}

impl<'a> Servers<'a> {
    fn new(world: &'a World, wire: Wire) -> Self {
        world.list(&[wire, wire, wire]);
        let lines = world.open().into_iter();
        Self {
            world,
            wire,
            lines: lines.map(|line| (line, Vec::new())).collect(),
            answered: Vec::new(),
            flows: Vec::new(),
        }
    }

    fn take(&mut self, number: usize, step: &Step) {
        let (world, count) = (self.world, self.lines.len());
        let has_ids = self.wire == Wire::WithIds;
        match *step {
            Step::Call => {
                let name = format!("user-{number}");
                self.flows.push((name.clone(), world.login(&name)));
            }
            Step::Answer { line, call, cut } => {
                let (line, asked) = &mut self.lines[line % count];
                if !asked.is_empty() && !line.is_closed() {
                    let call = asked.remove(call % asked.len());
                    let bytes = reply(self.wire, call.header.call_id, &call.username);
                    receive_in_two(world, line, bytes.split_at(cut % bytes.len()));
                    self.answered.push(call);
                }
            }
            Step::Repeat { line, call } => {
                // Without numbers, such a reply is taken for the next one's: a server must not.
                if has_ids && !self.answered.is_empty() {
                    let call = &self.answered[call % self.answered.len()];
                    let bytes = reply(self.wire, call.header.call_id, "repeated");
                    world.answer(&self.lines[line % count].0, &bytes);
                }
            }
            Step::Mislabel { line, call } => {
                let others = &self.lines[(line + 1) % count].1;
                if has_ids && !others.is_empty() {
                    let id = others[call % others.len()].header.call_id;
                    let bytes = reply(self.wire, id, "mislabelled");
                    world.answer(&self.lines[line % count].0, &bytes);
                }
            }
            Step::Lose { line } => self.lose(line % count),
            Step::Pass { length_ms } => world.pass(length_ms),
        }
    }

    /// A connection is lost, with what was asked over it, and made again.
    fn lose(&mut self, index: usize) {
        let (line, asked) = &mut self.lines[index];
        self.world.lose(line);
        *line = self
            .world
            .open_to(Rc::clone(&line.server), Purpose::Permanent);
        asked.clear();
    }

    /// Whoever has an answer has its own; connections that are wanted are made.
    fn go_on(&mut self) {
        self.flows.retain_mut(|(name, flow)| match poll(flow) {
            Some(Ok(answer)) => {
                assert_eq!(answer.token, *name);
                false
            }
            Some(Err(_)) => false,
            None => true,
        });
        let dialled: Vec<_> = self.world.dialled.borrow_mut().drain(..).collect();
        for (server, purpose) in dialled {
            let line = self.world.open_to(server, purpose);
            self.lines.push((line, Vec::new()));
        }
        for index in 0..self.lines.len() {
            if self.lines[index].0.is_closed() {
                self.lose(index);
            }
            let (line, asked) = &mut self.lines[index];
            asked.extend(line.asked());
        }
    }
}

proptest! {
    /// Every answer carries the name of who asked. Whatever happens, nobody gets another's.
    #[test]
    fn nobody_gets_an_answer_that_was_for_somebody_else(
        steps in prop::collection::vec(step(), 1..120),
        classic: bool,
    ) {
        let wire = if classic { Wire::Classic } else { Wire::WithIds };
        let world = World::new(|options| options.breaker_threshold = 1000);
        let mut servers = Servers::new(&world, wire);
        for (number, step) in steps.iter().enumerate() {
            servers.take(number, step);
            servers.go_on();
        }
        drop(servers.flows);
        world.pass(TIMEOUT_MS);
        prop_assert!(world.remote.calls.is_empty());
        for (line, _) in &servers.lines {
            prop_assert_eq!(line.server.outstanding(), 0);
        }
    }
}
