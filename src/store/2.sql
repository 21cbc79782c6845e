-- Documents of the inbox that were admitted and still lie in `inbox/new`, by the SHA-256 of their
-- bytes, with the answer to each element: none is ever admitted twice.
CREATE TABLE documents (
    digest TEXT PRIMARY KEY,
    answers TEXT NOT NULL
) STRICT, WITHOUT ROWID;
