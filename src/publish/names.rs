//! One change of a name at a time: from the decision to its record, nothing else may change what is
//! live or on disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::datafile::{AppId, DataName, Key};

type Name = (AppId, DataName);

/// The names that are being changed.
#[derive(Default)]
pub(super) struct Names(Arc<Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>>);

/// The right to change a name, for as long as it is held.
pub struct NameLock {
    names: Arc<Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>>,
    name: Name,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Names {
    /// Waits until nobody else changes the name of `key`.
    pub(super) async fn lock(&self, key: &Key) -> NameLock {
        self.lock_name(&key.app, &key.name).await
    }

    /// Waits until nobody else changes a name.
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
        // Nobody else holds or waits for it: forget the name.
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
