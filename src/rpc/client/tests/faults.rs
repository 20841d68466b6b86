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

proptest! {
    /// Every answer carries the name of who asked. Whatever happens, nobody gets another's.
    #[test]
    fn nobody_gets_an_answer_that_was_for_somebody_else(
        steps in prop::collection::vec(step(), 1..120),
        classic: bool,
    ) {
        let wire = if classic { Wire::Classic } else { Wire::WithIds };
        let world = World::new(|options| options.breaker_threshold = 1000);
        world.list(&[wire, wire, wire]);
        let open = world.open().into_iter();
        let mut lines: Vec<(Line, Vec<Asked>)> = open.map(|line| (line, Vec::new())).collect();
        let mut answered: Vec<Asked> = Vec::new();
        let mut flows: Vec<(String, Flow<'_>)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Call => {
                    let name = format!("user-{number}");
                    flows.push((name.clone(), world.login(&name)));
                }
                Step::Answer { line, call, cut } => {
                    let place = line % lines.len();
                    let (line, asked) = &mut lines[place];
                    if !asked.is_empty() && !line.is_closed() {
                        let call = asked.remove(call % asked.len());
                        let bytes = reply(wire, call.header.call_id, &call.username);
                        receive_in_two(&world, line, bytes.split_at(cut % bytes.len()));
                        answered.push(call);
                    }
                }
                // Without numbers, such a reply is taken for the next one's: a server must not.
                Step::Repeat { line, call } if !classic => {
                    let count = lines.len();
                    if !answered.is_empty() {
                        let call = &answered[call % answered.len()];
                        let bytes = reply(wire, call.header.call_id, "repeated");
                        world.answer(&lines[line % count].0, &bytes);
                    }
                }
                Step::Mislabel { line, call } if !classic => {
                    let count = lines.len();
                    let others = &lines[(line + 1) % count].1;
                    if !others.is_empty() {
                        let id = others[call % others.len()].header.call_id;
                        world.answer(&lines[line % count].0, &reply(wire, id, "mislabelled"));
                    }
                }
                Step::Repeat { .. } | Step::Mislabel { .. } => {}
                Step::Lose { line } => {
                    let index = line % lines.len();
                    let server = Rc::clone(&lines[index].0.server);
                    world.lose(&lines[index].0);
                    lines[index] = (world.open_to(server, Purpose::Permanent), Vec::new());
                }
                Step::Pass { length_ms } => world.pass(length_ms),
            }
            flows.retain_mut(|(name, flow)| match poll(flow) {
                Some(Ok(answer)) => {
                    assert_eq!(answer.token, *name);
                    false
                }
                Some(Err(_)) => false,
                None => true,
            });
            let dialled: Vec<_> = world.dialled.borrow_mut().drain(..).collect();
            for (server, purpose) in dialled {
                lines.push((world.open_to(server, purpose), Vec::new()));
            }
            for (line, asked) in &mut lines {
                let is_closed = line.is_closed();
                if is_closed {
                    world.lose(line);
                    *line = world.open_to(Rc::clone(&line.server), Purpose::Permanent);
                    asked.clear();
                }
                asked.extend(line.asked());
            }
        }
        drop(flows);
        world.pass(TIMEOUT_MS);
        prop_assert!(world.remote.calls.is_empty());
        for (line, _) in &lines {
            prop_assert_eq!(line.server.outstanding(), 0);
        }
    }
}
