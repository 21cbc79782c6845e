//! A member of a tar, put together from its header and the extended headers before it.

use super::error::{Error, Reason, Refusal};
use super::header::{Header, Type};
use super::pax::{Pax, PaxSparse};
use crate::datafile::tree::Mtime;

/// What extended headers have said about the next member.
#[derive(Default)]
pub(super) struct Pending {
    pax: Option<Pax>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

/// A member, assembled from its header and its extended headers.
pub(super) struct Member {
    pub(super) header: Header,
    pub(super) kind: Type,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    /// Content bytes after the header.
    pub(super) stored: u64,
    pub(super) mtime: Mtime,
    pub(super) sparse: Option<PaxSparse>,
}

impl Pending {
    pub(super) fn set_name(&mut self, name: Vec<u8>) -> Result<(), Error> {
        if name.is_empty() {
            return Err(Refusal::new(Reason::PathEmpty, "the long name is empty").into());
        }
        twice(self.name.replace(name).is_some(), "two long names")
    }

    pub(super) fn set_link(&mut self, link: Vec<u8>) -> Result<(), Error> {
        twice(
            self.link.replace(link).is_some(),
            "two long names of link targets",
        )
    }

    pub(super) fn set_pax(&mut self, pax: Pax) -> Result<(), Error> {
        twice(
            self.pax.replace(pax).is_some(),
            "two extended headers for one member",
        )
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pax.is_none() && self.name.is_none() && self.link.is_none()
    }

    /// At the end of the archive: no extended header may be left without its member.
    pub(super) fn check_empty(&self) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let refusal = Refusal::new(
            Reason::ExtDangling,
            "the archive ends after an extended header, without its member",
        );
        let pax_path = self.pax.as_ref().and_then(|pax| pax.path.as_ref());
        Err(match self.name.as_ref().or(pax_path) {
            Some(name) => refusal.at(name),
            None => refusal,
        }
        .into())
    }

    /// Refuses an extended header before a header that is not a member: readers disagree about
    /// whether it applies to that one or to the next member.
    pub(super) fn check_none(&self, before: &str) -> Result<(), Error> {
        twice(
            !self.is_empty(),
            &format!("an extended header before {before}"),
        )
    }

    /// Assembles a member.
    pub(super) fn member(self, header: Header, kind: Type) -> Result<Member, Refusal> {
        let pax = self.pax.unwrap_or_default();
        let sparse_name = pax.sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let name = match (sparse_name, pax.path, self.name) {
            (Some(_), _, Some(name)) | (_, Some(_), Some(name)) => {
                return Err(ambiguous("a long name and a pax path").at(&name));
            }
            (Some(name), _, None) | (None, Some(name), None) | (None, None, Some(name)) => name,
            (None, None, None) => header.name(),
        };
        let link = match (pax.link, self.link) {
            (Some(_), Some(_)) => {
                return Err(ambiguous("a long link target and a pax linkpath").at(&name));
            }
            (Some(link), None) | (None, Some(link)) => link,
            (None, None) => header.link().to_vec(),
        };
        let in_header = header.size().map_err(|refusal| refusal.at(&name))?;
        let stored = pax.size.unwrap_or(in_header);
        let bodiless = matches!(kind, Type::Dir | Type::Symlink | Type::HardLink);
        if bodiless {
            no_content(in_header.max(stored)).map_err(|refusal| refusal.at(&name))?;
            if pax.sparse.is_some() {
                let detail = "a sparse map for something other than a file";
                return Err(Refusal::new(Reason::SparseInvalid, detail).at(&name));
            }
        }
        Ok(Member {
            mtime: pax.mtime.unwrap_or_else(|| header.mtime()),
            header,
            kind,
            name,
            link,
            stored,
            sparse: pax.sparse,
        })
    }
}

/// Refuses a directory or link with content: readers disagree about where the next header is.
pub(super) fn no_content(size: u64) -> Result<(), Refusal> {
    if size > 0 {
        return Err(
            Refusal::new(Reason::SizeConflict, "has a size, but cannot have content")
                .values(0, size),
        );
    }
    Ok(())
}

pub(super) fn ambiguous(detail: &str) -> Refusal {
    Refusal::new(Reason::ExtAmbiguous, detail)
}

fn twice(is: bool, detail: &str) -> Result<(), Error> {
    if is {
        return Err(ambiguous(detail).into());
    }
    Ok(())
}
