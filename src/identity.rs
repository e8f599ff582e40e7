//! Who this data folder belongs to: `node.meta`, and the lock that keeps a second process out.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `LVRTNODE` |
//! | 8 | 4 | version, 2 |
//! | 12 | 8 | node id; 0 until the node is a member of a cluster |
//! | 20 | 8 | incarnation: counts the node's starts |
//! | 28 | 8 | token: drawn when the folder is made |
//! | 36 | 4 | length of what follows |
//! | 40 | n | the cluster as it was when the node became a member |
//! | 40 + n | 4 | crc32 of all before |
//!
//! Little-endian. Written aside, synced and renamed at every start, before anything uses the incarnation.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;

use crate::base::coding::{Reader, Truncated};
use crate::base::{NodeId, PipeId};
use crate::cluster::Membership;
use crate::model::topology::Formation;

const MAGIC: &[u8; 8] = b"LVRTNODE";
const VERSION: u32 = 2;
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file system says no.
    #[error("{path}: {error}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another process has it.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// It was not written by this program, by a newer one, or it is damaged.
    #[error("{0} is damaged or of an unknown version; it is not touched")]
    Unknown(PathBuf),
}

/// A data folder that no other process has while this lives, whether the node serves or not.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes a folder if there is none, and takes it. A process that was just killed may hold it for a moment: that is
    /// waited for, at most `patience`.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn take(dir: &Path, patience: Duration) -> Result<Arc<Self>, IdentityError> {
        fs::create_dir_all(dir).map_err(at(dir))?;
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let lock = options.open(&path).map_err(at(&path))?;
        take(&lock, &path, patience)?;
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            _lock: lock,
        }))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Deletes all that a node has, so that its next start is its first. The caller knows that no other node counts on
    /// it, and that it does not serve.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn forget(&self) -> Result<(), IdentityError> {
        let gone = |name: &str, removed: io::Result<()>| match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(at(&self.dir.join(name))(error))
            }
            _ => Ok(()),
        };
        let path = |name: &str| self.dir.join(name);
        gone("join", fs::remove_file(path("join")))?;
        gone("sets", fs::remove_dir_all(path("sets")))?;
        // Last: what is left after a crash in between is still this node's.
        gone("node.meta", fs::remove_file(path("node.meta")))
    }
}

/// A node's data folder, and who the node is.
#[derive(Debug)]
pub struct Identity {
    folder: Arc<Folder>,
    /// Counts the starts of the node.
    pub incarnation: u64,
    /// Names this folder: one that is made anew has another.
    pub token: u64,
    /// What the node is in its cluster, once it is a member.
    pub membership: Option<Membership>,
}

impl Identity {
    /// Begins a new incarnation in a folder.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn open(folder: &Arc<Folder>) -> Result<Self, IdentityError> {
        let path = folder.dir.join("node.meta");
        let last = match fs::read(&path) {
            Ok(bytes) => decode(&bytes).ok_or_else(|| IdentityError::Unknown(path.clone()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Meta {
                incarnation: 0,
                token: rand::random(),
                membership: None,
            },
            Err(error) => return Err(at(&path)(error)),
        };
        let identity = Self {
            folder: Arc::clone(folder),
            incarnation: last.incarnation + 1,
            token: last.token,
            membership: last.membership,
        };
        identity.write()?;
        Ok(identity)
    }

    /// The node is a member from now on.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn join(&mut self, membership: Membership) -> Result<PipeId, IdentityError> {
        let node = membership.node;
        self.membership = Some(membership);
        self.write()?;
        Ok(PipeId {
            node,
            incarnation: self.incarnation,
        })
    }

    /// The folder belongs to no cluster any more, and is another one to whoever knew it.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn forget(&mut self) -> Result<(), IdentityError> {
        self.membership = None;
        self.token = rand::random();
        self.write()
    }

    fn write(&self) -> Result<(), IdentityError> {
        let dir = &self.folder.dir;
        let (path, aside) = (dir.join("node.meta"), dir.join("node.meta.new"));
        let bytes = encode(self.incarnation, self.token, self.membership.as_ref());
        let write = || -> io::Result<()> {
            let mut file = File::create(&aside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&aside, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|error| IdentityError::Io { path, error })
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |error| IdentityError::Io { path, error }
}

fn take(lock: &File, path: &Path, patience: Duration) -> Result<(), IdentityError> {
    let mut waited = Duration::ZERO;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if waited < patience => {
                std::thread::sleep(LOCK_RETRY);
                waited += LOCK_RETRY;
            }
            Err(TryLockError::WouldBlock) => {
                let dir = path.parent().unwrap_or(path);
                return Err(IdentityError::InUse(dir.to_owned()));
            }
            Err(TryLockError::Error(error)) => {
                return Err(IdentityError::Io {
                    path: path.to_owned(),
                    error,
                });
            }
        }
    }
}

/// What the file says.
#[derive(Debug, PartialEq)]
struct Meta {
    incarnation: u64,
    token: u64,
    membership: Option<Membership>,
}

fn encode(incarnation: u64, token: u64, membership: Option<&Membership>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.put_slice(MAGIC);
    out.put_u32_le(VERSION);
    out.put_u64_le(membership.map_or(0, |one| one.node.0));
    out.put_u64_le(incarnation);
    out.put_u64_le(token);
    let mut formation = Vec::new();
    if let Some(membership) = membership {
        membership.formation.encode(&mut formation);
    }
    out.put_u32_le(formation.len() as u32);
    out.put_slice(&formation);
    let crc = crc32fast::hash(&out);
    out.put_u32_le(crc);
    out
}

fn decode(bytes: &[u8]) -> Option<Meta> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let read = || -> Result<Option<Meta>, Truncated> {
        let mut reader = Reader::new(body);
        let known = reader.bytes(8)? == MAGIC && reader.u32()? == VERSION;
        let node = NodeId(reader.u64()?);
        let (incarnation, token) = (reader.u64()?, reader.u64()?);
        let length = reader.u32()? as usize;
        let mut formation = Reader::new(reader.bytes(length)?);
        let membership = match node.0 {
            0 => None,
            _ => Some(Membership {
                node,
                formation: Formation::decode(&mut formation).map_err(|_| Truncated)?,
            }),
        };
        let whole = known && reader.is_empty() && formation.is_empty();
        Ok(whole.then_some(Meta {
            incarnation,
            token,
            membership,
        }))
    };
    read().ok().flatten()
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::model::topology::{NodeRecord, NodeState};

    fn membership() -> Membership {
        let node = NodeRecord {
            id: NodeId(2),
            name: "n".into(),
            address: "a".into(),
            token: 3,
            incarnation: 0,
            state: NodeState::Active,
        };
        Membership {
            node: NodeId(2),
            formation: Formation {
                cluster: 5,
                nodes: vec![node],
            },
        }
    }

    #[test]
    fn the_bytes_of_node_meta_stay() {
        let bytes = encode(4, 3, Some(&membership()));
        assert_eq!(
            &bytes[..bytes.len() - 4],
            b"LVRTNODE\x02\0\0\0\x02\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x18\0\0\0\
              \x05\0\0\0\0\0\0\0\x01\x02\x01n\x01a\x03\0\0\0\0\0\0\0\0\0"
        );
        let meta = Meta {
            incarnation: 4,
            token: 3,
            membership: Some(membership()),
        };
        assert_eq!(decode(&bytes), Some(meta));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(decode(&changed), None, "byte {at}");
            assert_eq!(decode(&bytes[..at]), None);
        }
    }

    #[test]
    fn every_start_is_a_new_incarnation_and_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::take(dir.path(), Duration::ZERO).unwrap();
        let mut first = Identity::open(&folder).unwrap();
        assert_eq!((first.incarnation, &first.membership), (1, &None));
        let pipe = first.join(membership()).unwrap();
        assert_eq!((pipe.node, pipe.incarnation), (NodeId(2), 1));
        assert!(matches!(
            Folder::take(dir.path(), Duration::ZERO),
            Err(IdentityError::InUse(_))
        ));
        let token = first.token;
        drop(first);
        // Whoever has the folder has it also while nothing of the node is open.
        assert!(matches!(
            Folder::take(dir.path(), Duration::ZERO),
            Err(IdentityError::InUse(_))
        ));
        let second = Identity::open(&folder).unwrap();
        assert_eq!((second.incarnation, second.token), (2, token));
        assert_eq!(second.membership, Some(membership()));
        drop((second, folder));
        let folder = Folder::take(dir.path(), Duration::ZERO).unwrap();
        fs::write(dir.path().join("node.meta"), b"something else").unwrap();
        assert!(matches!(
            Identity::open(&folder),
            Err(IdentityError::Unknown(_))
        ));
        // What cannot be read can be forgotten.
        fs::create_dir_all(dir.path().join("sets/1")).unwrap();
        fs::write(dir.path().join("join"), "a:1\n1\n").unwrap();
        folder.forget().unwrap();
        folder.forget().unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "the lock");
        let third = Identity::open(&folder).unwrap();
        assert_eq!((third.incarnation, third.token == token), (1, false));
    }
}
