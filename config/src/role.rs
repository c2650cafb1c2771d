//! `Roles`: which parts of the shop a process runs.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A part of the shop that a process can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Serves customers over HTTP.
    Door,
    /// Runs the topologies.
    Streams,
    /// Writes the tables.
    Sink,
    /// Calls the payment gateway.
    Gateway,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Door, Self::Streams, Self::Sink, Self::Gateway];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Door => "door",
            Self::Streams => "streams",
            Self::Sink => "sink",
            Self::Gateway => "gateway",
        }
    }
}

/// The parts of the shop that a process runs. As text: their names, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roles(BTreeSet<Role>);

/// Text that names no roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {}", Roles::ALLOWED)]
pub struct InvalidRoles;

impl Roles {
    pub(crate) const ALLOWED: &str = "some of door, streams, sink and gateway, separated by commas";

    /// All parts.
    pub fn all() -> Self {
        Self(Role::ALL.into_iter().collect())
    }

    /// True when the process runs that part.
    pub fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn parse<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self, InvalidRoles> {
        let role = |name: &str| {
            let mut all = Role::ALL.into_iter();
            all.find(|role| role.as_str() == name.trim())
                .ok_or(InvalidRoles)
        };
        names.map(role).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Roles {
    type Err = InvalidRoles;
    fn from_str(text: &str) -> Result<Self, InvalidRoles> {
        Self::parse(text.split(','))
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|role| role.as_str()).collect();
        f.write_str(&names.join(","))
    }
}

impl Serialize for Roles {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Roles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Roles;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Roles::ALLOWED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Roles, E> {
                text.parse()
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Roles, A::Error> {
                let mut names: Vec<String> = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                let unexpected = names.join(",");
                Roles::parse(names.iter().map(String::as_str))
                    .map_err(|_| de::Error::invalid_value(de::Unexpected::Str(&unexpected), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
