//! Files that were pushed again although they are published: whoever keeps the published trees
//! inspects them, in case somebody has changed them meanwhile.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::datafile::{DataFile, Key};
use crate::wire::push::Via;

/// Most files that are noted. What is beyond is left to the next push and to the scrub.
const MOST: usize = 1024;

/// The files, each once however often it was pushed.
#[derive(Default)]
pub struct Repeated {
    files: Mutex<HashMap<Key, (DataFile, Via)>>,
    noted: Notify,
}

impl Repeated {
    pub(super) fn note(&self, file: &DataFile, via: Via) {
        let mut files = self.lock();
        if files.len() >= MOST || files.contains_key(&file.key) {
            return;
        }
        files.insert(file.key.clone(), (file.clone(), via));
        self.noted.notify_one();
    }

    /// Waits until a file is noted.
    pub async fn noted(&self) {
        self.noted.notified().await;
    }

    /// Takes the files whose key is `ready`.
    pub fn take(&self, ready: impl Fn(&Key) -> bool) -> Vec<(DataFile, Via)> {
        let mut files = self.lock();
        files
            .extract_if(|key, _| ready(key))
            .map(|(_, pushed)| pushed)
            .collect()
    }

    /// Returns the keys of the files that were not taken yet.
    pub fn keys(&self) -> Vec<Key> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (DataFile, Via)>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
