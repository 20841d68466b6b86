//! What commands cost: one table, beside the list of what they ask.
//!
//! A token is about what it takes to store one message. Every line costs one before anything is
//! known of it; what its command costs beyond that is known when it is answered, from what it
//! moved. `docs/protocol.md` has the same table for clients. Pure.

use super::job::Call;
use crate::protocol::reply::Reply;

/// Messages of a pull, and ids of an acknowledgement, for one token.
const MESSAGES: usize = 20;
/// Users or groups of a list for one token.
const LISTED: usize = 50;
/// Groups of the user for one token: of a login, which opens and later closes them all, and of what
/// looks through them.
const OPENED_GROUPS: usize = 5;
const SEEN_GROUPS: usize = 20;
/// Sessions here that get a group's message, for one token.
const LISTENERS: usize = 100;
/// A password to be hashed or a token to be checked, a route to be bound.
const LOGIN: usize = 4;
/// A row of its own beside those that are looked at.
const CHANGE: usize = 2;

/// What the answer does not say of a command's cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// The groups the session is in.
    pub groups: usize,
    /// Sessions of this core in the group that the command is about.
    pub listeners: usize,
}

/// The tokens that a command costs beyond the one of its line.
pub fn beyond_its_line(call: &Call, reply: &Reply, circumstances: Circumstances) -> u32 {
    let Circumstances { groups, listeners } = circumstances;
    let tokens = match (call, reply) {
        // Ids that are nobody's are looked up as well.
        (Call::Ack { ids }, _) => ids.len() / MESSAGES,
        (_, Reply::Error { .. }) => 0,
        (Call::Register { .. } | Call::Login { .. } | Call::Auth { .. }, _) => {
            LOGIN + groups / OPENED_GROUPS
        }
        (Call::GroupChat { .. }, _) => listeners / LISTENERS,
        (Call::Pull { .. }, Reply::PullDone { count, .. }) => {
            count / MESSAGES + groups / SEEN_GROUPS
        }
        (Call::CreateGroup { .. } | Call::JoinGroup(_), _) => CHANGE + groups / SEEN_GROUPS,
        (Call::LeaveGroup(_) | Call::AddFriend(_) | Call::RemoveFriend(_), _) => CHANGE,
        (Call::Friends, Reply::Friends(ids)) => ids.len() / LISTED,
        (Call::Groups, Reply::Groups(ids)) => ids.len() / LISTED,
        (Call::GroupMembers { .. }, Reply::Members { ids, .. }) => ids.len() / LISTED,
        (Call::Search { .. }, _) => 1,
        _ => 0,
    };
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::error_code::ErrorCode;

    fn of(call: &Call, reply: &Reply) -> u32 {
        beyond_its_line(call, reply, Circumstances::default())
    }

    #[test]
    fn what_moves_little_costs_its_line_alone() {
        let chat = Call::Chat {
            to: 2,
            text: "hello".into(),
        };
        let stored = Reply::Stored {
            group: false,
            message_id: 1,
            duplicate: false,
        };
        assert_eq!(of(&chat, &stored), 0);
        let nothing = Reply::PullDone {
            count: 0,
            more: false,
        };
        assert_eq!(of(&Call::Pull { limit: 1000 }, &nothing), 0);
        assert_eq!(of(&Call::Who(2), &Reply::error(ErrorCode::NotFound, "")), 0);
    }

    #[test]
    fn a_pull_costs_what_it_brings() {
        let full = Reply::PullDone {
            count: 1000,
            more: true,
        };
        assert_eq!(of(&Call::Pull { limit: 1000 }, &full), 50);
    }

    #[test]
    fn an_acknowledgement_costs_what_it_names_whether_or_not_it_is_there() {
        let ack = Call::Ack {
            ids: (1..=400).collect(),
        };
        assert_eq!(of(&ack, &Reply::Acked(0)), 20);
        assert_eq!(of(&ack, &Reply::error(ErrorCode::Timeout, "")), 20);
    }

    #[test]
    fn members_cost_by_the_page() {
        let call = Call::GroupMembers {
            group: 7,
            after: 0,
            limit: 1000,
        };
        let page = Reply::Members {
            ids: (1..=1000).collect(),
            more: true,
        };
        assert_eq!(of(&call, &page), 20);
    }

    #[test]
    fn a_login_pays_for_all_groups_it_opens() {
        let reply = Reply::LoggedIn {
            uid: 1,
            session: 1,
            token: None,
            replaced: false,
        };
        let call = Call::Auth {
            token: crate::base::secret::Secret::new(String::new()),
            user: None,
            last_event: None,
        };
        let of_many = Circumstances {
            groups: 500,
            listeners: 0,
        };
        assert_eq!(beyond_its_line(&call, &reply, of_many), 104);
        assert_eq!(of(&call, &reply), 4);
    }

    #[test]
    fn a_message_to_a_crowd_costs_by_those_who_hear_it_here() {
        let call = Call::GroupChat {
            group: 7,
            text: "hello".into(),
        };
        let stored = Reply::Stored {
            group: true,
            message_id: 1,
            duplicate: false,
        };
        let crowd = Circumstances {
            groups: 1,
            listeners: 5000,
        };
        assert_eq!(beyond_its_line(&call, &stored, crowd), 50);
    }
}
