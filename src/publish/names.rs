//! A lock per name: between the decision to change a name and the record of the change, nothing
//! else may change what is live or on disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::datafile::{AppId, DataName, Key};

type Name = (AppId, DataName);

/// The names currently locked.
#[derive(Default)]
pub(super) struct Names(Arc<Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>>);

/// Holds the lock on one name until it is dropped.
pub struct NameLock {
    names: Arc<Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>>,
    name: Name,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Names {
    /// Locks the name of `key`, waiting until it is free.
    pub(super) async fn lock(&self, key: &Key) -> NameLock {
        self.lock_name(&key.app, &key.name).await
    }

    /// Locks a name, waiting until it is free.
    pub(super) async fn lock_name(&self, app: &AppId, name: &DataName) -> NameLock {
        let name = (app.clone(), name.clone());
        let lock = {
            let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(names.entry(name.clone()).or_default())
        };
        NameLock {
            names: Arc::clone(&self.0),
            name,
            guard: Some(lock.lock_owned().await),
        }
    }
}

impl Drop for NameLock {
    fn drop(&mut self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard = None;
        // No other holder or waiter: drop the name from the table.
        if names
            .get(&self.name)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            names.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datafile::DataVersion;

    #[tokio::test]
    async fn locks_exclude_each_other_and_leave_nothing() {
        let names = Names::default();
        let key = |name: &str| Key {
            app: AppId::parse("a").unwrap(),
            name: DataName::parse(name).unwrap(),
            version: DataVersion::parse("1").unwrap(),
        };
        let first = names.lock(&key("x")).await;
        let _other = names.lock(&key("y")).await;
        let (x, second_key) = (&names, key("x"));
        let second = x.lock(&second_key);
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        assert_eq!(names.0.lock().unwrap().len(), 1);
    }
}
