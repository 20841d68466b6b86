//! What is conceded to services that are MPIM's, and to the clients that came with them: all of it,
//! in one place.
//!
//! Owns the list of concessions; each is a key of the section `[mpim]`, off by default, and set in
//! `conf/mpim.toml`, which also says what remains impossible. Services of our own are asked for
//! none of it. Those who act by a concession say so where they do.

use crate::contract::methods::{METHODS, Service};

/// Settings of a gateway whose services are MPIM's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Concessions {
    /// Calls that wait for each other: of the methods of one set, one call at a time over the whole
    /// gateway.
    pub serial_calls: Vec<SerialSet>,
    /// A login is answered although Presence, or the Redis behind it, is away: the route is bound
    /// once it can be. Without it, a login waits for its route, as it begins the numbers of what is
    /// pushed.
    pub login_without_presence: bool,
    /// Names and numbers of users are kept in the data directory: a service that remembers who is
    /// online refuses them after the gateway was killed, and does not say whom it refuses.
    pub remember_users: bool,
    /// Presence takes an empty route for none: without `UnbindRoute` that is how a route is taken
    /// away.
    pub empty_route_unbinds: bool,
    /// Names and passwords are the User Service's to judge.
    pub user_service_decides: bool,
}

/// Methods, by their numbers, that a service cannot take at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialSet(pub Vec<usize>);

impl SerialSet {
    /// The methods named in `text`, separated by spaces: "Register AddFriend".
    ///
    /// # Errors
    /// What in it is no method.
    pub fn parse(text: &str) -> Result<Self, String> {
        let numbers: Vec<usize> = text
            .split_whitespace()
            .map(|word| {
                let number = METHODS.iter().position(|(_, name)| *name == word);
                number.ok_or_else(|| format!("{word:?} is no method of a service"))
            })
            .collect::<Result<_, _>>()?;
        if numbers.is_empty() {
            return Err("a text without a method says nothing".to_owned());
        }
        Ok(Self(numbers))
    }

    /// The methods as one would write them.
    pub fn names(&self) -> impl Iterator<Item = (Service, &'static str)> + use<'_> {
        self.0
            .iter()
            .filter_map(|number| METHODS.get(*number).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_names_methods_and_nothing_else() {
        let set = SerialSet::parse(" Register  AddFriend ").expect("two methods");
        let names: Vec<_> = set.names().collect();
        assert_eq!(
            names,
            [(Service::User, "Register"), (Service::User, "AddFriend")]
        );
        for bad in ["", "  ", "register", "Register,AddFriend", "Send Nothing"] {
            assert!(SerialSet::parse(bad).is_err(), "{bad:?}");
        }
    }
}
