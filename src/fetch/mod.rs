//! A source as a byte stream: dialling, policy, retries, resume, and the partial file.
