//! One flip of a name at a time: from the decision to its record, nothing else may change what is live.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::datafile::{AppId, DataName, Key};

type Name = (AppId, DataName);

/// The names whose `current` is being changed.
#[derive(Default)]
pub(super) struct Names(Arc<Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>>);

/// The right to change what is live of a name.
pub(super) struct Turn {
    names: Arc<Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>>,
    name: Name,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Names {
    /// Waits for the turn of the name of `key`.
    pub(super) async fn lock(&self, key: &Key) -> Turn {
        self.lock_name(&key.app, &key.name).await
    }

    /// Waits for the turn of a name.
    pub(super) async fn lock_name(&self, app: &AppId, name: &DataName) -> Turn {
        let name = (app.clone(), name.clone());
        let lock = {
            let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(names.entry(name.clone()).or_default())
        };
        Turn {
            names: Arc::clone(&self.0),
            name,
            guard: Some(lock.lock_owned().await),
        }
    }
}

impl Drop for Turn {
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
    async fn turns_exclude_each_other_and_leave_nothing() {
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
