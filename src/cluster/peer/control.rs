//! Questions about the cluster itself, and their answers, as bytes: a version, a tag, the fields in order.

use bytes::{BufMut, Bytes};

use crate::base::coding::{Reader, Truncated, Writer};
use crate::base::{NodeId, SetId};
use crate::model::topology::Formation;

const VERSION: u8 = 1;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Who are you, and do you belong to a cluster? From a node that does not yet.
    Hello,
    /// Take me in.
    Join {
        /// Node name.
        name: String,
        /// Where its peers reach it.
        address: String,
        /// Names its data folder.
        token: u64,
    },
    /// From an operator: leave your own cluster and join the one of this member.
    JoinOther {
        /// Its address.
        member: String,
    },
    /// What there is and how it is: lines of fields apart by tabs, see `cluster::control`.
    Status,
    /// What this node holds: its part of `Status`.
    Report,
    /// To the controller: this node is there, see `cluster::presence`.
    Here {
        /// Who asks.
        node: NodeId,
    },
    /// Give a node's replicas and leaderships to others, or (false) let it take its share again.
    Drain {
        /// The node's name.
        node: String,
        /// Whether it is to give or to take.
        drain: bool,
    },
    /// Take a node out that never comes back.
    Forget {
        /// The node's name.
        node: String,
    },
    /// Move a queue to another set, or spread it over several.
    Place {
        /// Vhost.
        vhost: String,
        /// Queue.
        queue: String,
        /// Where it is to live; empty: the controller chooses as many as `parts`.
        sets: Vec<SetId>,
        /// How many sets, if none are named.
        parts: u32,
    },
    /// Figures of this node, as whoever shows them asks for them.
    Figures(Bytes),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// To `Hello`.
    Hello {
        /// Node name.
        name: String,
        /// Names its data folder.
        token: u64,
        /// The addresses it was told to form a cluster with, sorted.
        peers: Vec<String>,
        /// Its cluster, if it has one.
        formed: Option<Formation>,
    },
    /// To `Join`: the id, and the cluster's members.
    Joined(NodeId, Formation),
    /// To `Here`: the controller has noted it.
    Noted,
    /// Text for people.
    Text(String),
    /// Why not.
    Refused(String),
    /// To `Figures`.
    Figures(Bytes),
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_blob(text.as_bytes());
}

fn put_formation(out: &mut Vec<u8>, formation: &Formation) {
    let mut bytes = Vec::new();
    formation.encode(&mut bytes);
    out.put_blob(&bytes);
}

fn get_formation(reader: &mut Reader<'_>) -> Result<Formation, Truncated> {
    Formation::decode(&mut Reader::new(reader.blob()?)).map_err(|_| Truncated)
}

impl Ask {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Self::Hello => out.put_u8(1),
            Self::Join {
                name,
                address,
                token,
            } => {
                out.put_u8(2);
                put_text(&mut out, name);
                put_text(&mut out, address);
                out.put_u64_le(*token);
            }
            Self::JoinOther { member } => {
                out.put_u8(9);
                put_text(&mut out, member);
            }
            Self::Status => out.put_u8(3),
            Self::Report => out.put_u8(7),
            Self::Here { node } => {
                out.put_u8(8);
                out.put_varint(node.0);
            }
            Self::Drain { node, drain } => {
                out.put_u8(4);
                put_text(&mut out, node);
                out.put_flag(*drain);
            }
            Self::Forget { node } => {
                out.put_u8(5);
                put_text(&mut out, node);
            }
            Self::Place {
                vhost,
                queue,
                sets,
                parts,
            } => {
                out.put_u8(6);
                put_text(&mut out, vhost);
                put_text(&mut out, queue);
                out.put_varint(sets.len() as u64);
                for set in sets {
                    out.put_u32_le(set.0);
                }
                out.put_u32_le(*parts);
            }
            Self::Figures(question) => {
                out.put_u8(32);
                out.put_blob(question);
            }
        }
        out.into()
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are no question of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(Truncated);
        }
        Ok(match reader.u8()? {
            1 => Self::Hello,
            2 => Self::Join {
                name: reader.text()?,
                address: reader.text()?,
                token: reader.u64()?,
            },
            9 => Self::JoinOther {
                member: reader.text()?,
            },
            3 => Self::Status,
            7 => Self::Report,
            8 => Self::Here {
                node: NodeId(reader.varint()?),
            },
            4 => Self::Drain {
                node: reader.text()?,
                drain: reader.flag()?,
            },
            5 => Self::Forget {
                node: reader.text()?,
            },
            6 => {
                let (vhost, queue) = (reader.text()?, reader.text()?);
                let mut sets = Vec::new();
                for _ in 0..reader.varint()? {
                    sets.push(SetId(reader.u32()?));
                }
                Self::Place {
                    vhost,
                    queue,
                    sets,
                    parts: reader.u32()?,
                }
            }
            32 => Self::Figures(Bytes::copy_from_slice(reader.blob()?)),
            _ => return Err(Truncated),
        })
    }
}

impl Told {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Self::Hello {
                name,
                token,
                peers,
                formed,
            } => {
                out.put_u8(1);
                put_text(&mut out, name);
                out.put_u64_le(*token);
                out.put_varint(peers.len() as u64);
                for peer in peers {
                    put_text(&mut out, peer);
                }
                out.put_flag(formed.is_some());
                if let Some(formation) = formed {
                    put_formation(&mut out, formation);
                }
            }
            Self::Joined(node, formation) => {
                out.put_u8(2);
                out.put_varint(node.0);
                put_formation(&mut out, formation);
            }
            Self::Noted => out.put_u8(5),
            Self::Text(text) => {
                out.put_u8(3);
                put_text(&mut out, text);
            }
            Self::Refused(why) => {
                out.put_u8(4);
                put_text(&mut out, why);
            }
            Self::Figures(figures) => {
                out.put_u8(32);
                out.put_blob(figures);
            }
        }
        out.into()
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are no answer of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(Truncated);
        }
        Ok(match reader.u8()? {
            1 => {
                let (name, token) = (reader.text()?, reader.u64()?);
                let mut peers = Vec::new();
                for _ in 0..reader.varint()? {
                    peers.push(reader.text()?);
                }
                let formed = match reader.flag()? {
                    true => Some(get_formation(&mut reader)?),
                    false => None,
                };
                Self::Hello {
                    name,
                    token,
                    peers,
                    formed,
                }
            }
            2 => Self::Joined(NodeId(reader.varint()?), get_formation(&mut reader)?),
            3 => Self::Text(reader.text()?),
            4 => Self::Refused(reader.text()?),
            32 => Self::Figures(Bytes::copy_from_slice(reader.blob()?)),
            5 => Self::Noted,
            _ => return Err(Truncated),
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::model::topology::{NodeRecord, NodeState};

    #[test]
    fn every_question_and_answer_comes_back_from_its_bytes_and_no_cut_of_them_does() {
        let node = NodeRecord {
            id: NodeId(3),
            name: "rabbit@c".into(),
            address: "c:25672".into(),
            token: 9,
            incarnation: 0,
            state: NodeState::Active,
        };
        let formation = Formation {
            cluster: 7,
            nodes: vec![node],
        };
        let asks = [
            Ask::Hello,
            Ask::Join {
                name: "rabbit@a".into(),
                address: "a:1".into(),
                token: 5,
            },
            Ask::JoinOther {
                member: "b:1".into(),
            },
            Ask::Status,
            Ask::Report,
            Ask::Here { node: NodeId(3) },
            Ask::Drain {
                node: "rabbit@a".into(),
                drain: true,
            },
            Ask::Forget {
                node: "rabbit@a".into(),
            },
            Ask::Place {
                vhost: "/".into(),
                queue: "q".into(),
                sets: vec![SetId(2), SetId(1)],
                parts: 2,
            },
            Ask::Figures(Bytes::from_static(b"which")),
        ];
        for ask in asks {
            let bytes = ask.encode();
            assert_eq!(Ask::decode(&bytes), Ok(ask));
            assert!((0..bytes.len()).all(|cut| Ask::decode(&bytes[..cut]).is_err()));
        }
        let answers = [
            Told::Hello {
                name: "rabbit@a".into(),
                token: 1,
                peers: vec!["a:1".into(), "b:1".into()],
                formed: Some(formation.clone()),
            },
            Told::Joined(NodeId(4), formation),
            Told::Noted,
            Told::Text("{}".into()),
            Told::Refused("no".into()),
            Told::Figures(Bytes::from_static(b"these")),
        ];
        for told in answers {
            let bytes = told.encode();
            assert_eq!(Told::decode(&bytes), Ok(told));
            assert!((0..bytes.len()).all(|cut| Told::decode(&bytes[..cut]).is_err()));
        }
    }
}
