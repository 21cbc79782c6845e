//! The ENS contract byte for byte: requests, answers, codes, error body, both signature schemes. No input or output.
