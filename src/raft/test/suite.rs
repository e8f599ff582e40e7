//! openraft's own storage suite over this store.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::super::applier::Applier;
use super::super::store::Store;
use super::super::types::Types;
use super::super::{Machine, start};
use super::{Toy, options};

struct Builder;

impl StoreBuilder<Types, Store, Applier, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Store, Applier), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let machine = Arc::new(Mutex::new(Toy::default()));
        let shared = start::open(&options(dir.path()), machine, Toy::compact_payload)
            .await
            .unwrap();
        let store = Store::new(Arc::clone(&shared));
        Ok((dir, store, Applier::new(shared)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_what_openraft_expects_of_one() {
    Suite::<Types, Store, Applier, Builder, TempDir>::test_all(Builder)
        .await
        .unwrap();
}
