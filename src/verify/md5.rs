//! MD5 by the assembly code of the TLS library, which is linked anyway. It is 1.3 times as fast as
//! the portable code, and MD5 is the bottleneck of an incompressible archive (W3 in
//! `docs/performance.md`): 0.57 s of 1.1 s for 512 MiB. A test compares it with the `md-5` crate.

use std::ffi::c_void;

use aws_lc_sys::{MD5_CTX, MD5_Final, MD5_Init, MD5_Update};

/// An MD5 computation in progress.
pub(super) struct Md5(MD5_CTX);

impl Md5 {
    pub(super) fn new() -> Self {
        let mut context = MD5_CTX {
            h: [0; 4],
            Nl: 0,
            Nh: 0,
            data: [0; 64],
            num: 0,
        };
        #[expect(
            unsafe_code,
            reason = "fills the context, which is plain data that we own"
        )]
        // SAFETY: the pointer is to a live, exclusively borrowed context.
        unsafe {
            MD5_Init(&raw mut context);
        }
        Self(context)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        #[expect(unsafe_code, reason = "reads exactly the slice and writes the context")]
        // SAFETY: pointer and length come from one live slice; `new` initialised the context.
        unsafe {
            MD5_Update(
                &raw mut self.0,
                bytes.as_ptr().cast::<c_void>(),
                bytes.len(),
            );
        }
    }

    pub(super) fn finish(mut self) -> [u8; 16] {
        let mut out = [0; 16];
        #[expect(unsafe_code, reason = "writes exactly 16 bytes")]
        // SAFETY: `out` has the 16 bytes of an MD5; `new` initialised the context.
        unsafe {
            MD5_Final(out.as_mut_ptr(), &raw mut self.0);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use md5::Digest as _;

    #[test]
    fn agrees_with_the_portable_code_for_every_length_and_split() {
        let bytes: Vec<u8> = (0..1000u32).map(|n| (n * 7 + n / 13) as u8).collect();
        for length in 0..300 {
            for split in [0, 1, 63, 64, 65, length / 2] {
                let (head, tail) = bytes[..length].split_at(split.min(length));
                let mut ours = super::Md5::new();
                ours.update(head);
                ours.update(tail);
                assert_eq!(
                    ours.finish(),
                    <[u8; 16]>::from(md5::Md5::digest(&bytes[..length])),
                    "{length} {split}"
                );
            }
        }
    }
}
