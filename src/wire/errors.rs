//! The error codes of the contract, with HTTP status and message (docs/ens.md §7).
//!
//! The status decides what the vendor's clients raise, the code what their users see. A [`Refusal`]
//! may add a sentence of its own after the contract's message; the text of `SignatureDoesNotMatch`
//! repeats the client's request and goes to that client only, so a `Refusal`'s `Debug` and
//! `Display` leave the message out.

use std::borrow::Cow;
use std::fmt;

/// A code of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    /// Unknown action, or a path without one.
    ActionNotFound,
    /// Not version 2017-11-10.
    InvalidVersion,
    /// A required parameter is missing or blank.
    Missing(&'static str),
    /// Unknown access key.
    AccessKeyNotFound,
    /// The access key is disabled.
    AccessKeyInactive,
    /// The `Authorization` header cannot be parsed, or does not sign what it must.
    IncompleteSignature,
    /// An unsupported signature method.
    InvalidSignatureMethod,
    /// The signature is not the one that the secret gives.
    SignatureDoesNotMatch,
    /// The time stamp is malformed.
    TimeStampFormat,
    /// The time stamp is too far from this machine's clock.
    TimeStampExpired,
    /// The nonce was used before: a replay.
    NonceUsed,
    /// A security token, which static keys do not have.
    TokenMalformed,
    /// A parameter's value is invalid.
    InvalidParameter(Cow<'static, str>),
    /// The key may not use this action or application.
    NoPermission,
    /// Neither GET nor POST.
    UnsupportedMethod,
    /// Too many requests of one key.
    Throttling,
    /// The body is too large.
    TooLarge,
    /// The URI is too long.
    UriTooLong,
    /// The request line and the headers together are too large.
    HeadTooLarge,
    /// The request did not arrive in time.
    RequestTimeout,
    /// The request is not valid HTTP.
    BadRequest,
    /// An internal error.
    Internal,
    /// Draining, or out of disk space.
    Unavailable,
}

impl Code {
    /// Returns the code as the client reads it.
    #[must_use]
    pub fn name(&self) -> Cow<'static, str> {
        let name = match self {
            Self::ActionNotFound => "InvalidAction.NotFound",
            Self::InvalidVersion => "InvalidVersion",
            Self::Missing(what) => return format!("Missing{what}").into(),
            Self::AccessKeyNotFound => "InvalidAccessKeyId.NotFound",
            Self::AccessKeyInactive => "InvalidAccessKeyId.Inactive",
            Self::IncompleteSignature => "IncompleteSignature",
            Self::InvalidSignatureMethod => "InvalidSignatureMethod",
            Self::SignatureDoesNotMatch => "SignatureDoesNotMatch",
            Self::TimeStampFormat => "InvalidTimeStamp.Format",
            Self::TimeStampExpired => "InvalidTimeStamp.Expired",
            Self::NonceUsed => "SignatureNonceUsed",
            Self::TokenMalformed => "InvalidSecurityToken.Malformed",
            Self::InvalidParameter(what) if what.is_empty() => "InvalidParameter",
            Self::InvalidParameter(what) => return format!("InvalidParameter.{what}").into(),
            Self::NoPermission => "NoPermission",
            Self::UnsupportedMethod => "UnsupportedHTTPMethod",
            Self::Throttling => "Throttling.User",
            Self::TooLarge => "RequestTooLarge",
            Self::UriTooLong => "RequestUriTooLong",
            Self::HeadTooLarge => "RequestHeadTooLarge",
            Self::RequestTimeout => "RequestTimeout",
            Self::BadRequest => "BadRequest",
            Self::Internal => "InternalError",
            Self::Unavailable => "ServiceUnavailable",
        };
        name.into()
    }

    /// Returns the HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::ActionNotFound | Self::AccessKeyNotFound => 404,
            Self::InvalidVersion
            | Self::Missing(_)
            | Self::AccessKeyInactive
            | Self::IncompleteSignature
            | Self::InvalidSignatureMethod
            | Self::SignatureDoesNotMatch
            | Self::TimeStampFormat
            | Self::TimeStampExpired
            | Self::NonceUsed
            | Self::TokenMalformed
            | Self::InvalidParameter(_)
            // 400, not 403: documented so for this product.
            | Self::NoPermission
            | Self::UnsupportedMethod
            | Self::Throttling
            | Self::BadRequest => 400,
            Self::RequestTimeout => 408,
            Self::TooLarge => 413,
            Self::UriTooLong => 414,
            Self::HeadTooLarge => 431,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }

    /// Returns the contract's message.
    #[must_use]
    pub fn message(&self) -> Cow<'static, str> {
        let text = match self {
            Self::ActionNotFound => "Specified api is not found, please check your url and method.",
            Self::InvalidVersion => "Specified parameter Version is not valid.",
            Self::Missing(what) => return format!("{what} is mandatory for this action.").into(),
            Self::AccessKeyNotFound => "Specified access key is not found.",
            Self::AccessKeyInactive => "Specified access key is disabled.",
            Self::IncompleteSignature => "The request signature does not conform to the standard.",
            Self::InvalidSignatureMethod => "Specified signature method is not valid.",
            Self::SignatureDoesNotMatch => {
                "Specified signature is not matched with our calculation."
            }
            Self::TimeStampFormat => {
                "Specified time stamp is not valid, expected YYYY-MM-DDThh:mm:ssZ."
            }
            Self::TimeStampExpired => "Specified time stamp is more than 15 minutes off.",
            Self::NonceUsed => "Specified signature nonce was used already.",
            Self::TokenMalformed => "Specified security token is not valid: keys here are static.",
            Self::InvalidParameter(what) => {
                return format!("The specified field {what} invalid. Please check it again.")
                    .into();
            }
            Self::NoPermission => "Permission denied.",
            Self::UnsupportedMethod => "Specified HTTP method is not supported, use GET or POST.",
            Self::Throttling => "Request was denied due to user flow control.",
            Self::TooLarge => "The request is too large.",
            Self::UriTooLong => {
                "The URI has more than 65534 bytes: put the parameters into a form body."
            }
            Self::HeadTooLarge => {
                "Request line and headers are too large: put the parameters into a form body."
            }
            Self::RequestTimeout => "The request did not arrive in time.",
            Self::BadRequest => "The request is no valid HTTP/1.1.",
            Self::Internal => "The request processing has failed due to some unknown error.",
            Self::Unavailable => "The request has failed due to a temporary failure of the server.",
        };
        text.into()
    }
}

/// A code with the message that goes out.
#[derive(Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: Code,
    /// The message. It goes to this client only.
    pub message: String,
}

impl Refusal {
    /// Makes a refusal with the contract's message followed by `detail`.
    #[must_use]
    pub fn because(code: Code, detail: impl fmt::Display) -> Self {
        let message = format!("{} {detail}", code.message());
        Self { code, message }
    }

    /// Makes a refusal of the value of parameter `name`, with what is wrong with it.
    #[must_use]
    pub fn parameter(name: impl Into<Cow<'static, str>>, detail: impl fmt::Display) -> Self {
        Self::because(Code::InvalidParameter(name.into()), detail)
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        let message = code.message().into_owned();
        Self { code, message }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.code.name())
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_the_contracts_name_status_and_message() {
        for (code, name, status, message) in [
            (
                Code::ActionNotFound,
                "InvalidAction.NotFound",
                404,
                "Specified api is not found, please check your url and method.",
            ),
            (
                Code::InvalidVersion,
                "InvalidVersion",
                400,
                "Specified parameter Version is not valid.",
            ),
            (
                Code::Missing("AppId"),
                "MissingAppId",
                400,
                "AppId is mandatory for this action.",
            ),
            (
                Code::Missing("AccessKeyId"),
                "MissingAccessKeyId",
                400,
                "AccessKeyId is mandatory for this action.",
            ),
            (
                Code::AccessKeyNotFound,
                "InvalidAccessKeyId.NotFound",
                404,
                "Specified access key is not found.",
            ),
            (
                Code::AccessKeyInactive,
                "InvalidAccessKeyId.Inactive",
                400,
                "Specified access key is disabled.",
            ),
            (
                Code::InvalidSignatureMethod,
                "InvalidSignatureMethod",
                400,
                "Specified signature method is not valid.",
            ),
            (
                Code::NonceUsed,
                "SignatureNonceUsed",
                400,
                "Specified signature nonce was used already.",
            ),
            (
                Code::InvalidParameter("Data".into()),
                "InvalidParameter.Data",
                400,
                "The specified field Data invalid. Please check it again.",
            ),
            (
                Code::NoPermission,
                "NoPermission",
                400,
                "Permission denied.",
            ),
            (
                Code::Throttling,
                "Throttling.User",
                400,
                "Request was denied due to user flow control.",
            ),
        ] {
            assert_eq!(
                (&*code.name(), code.status(), &*code.message()),
                (name, status, message)
            );
        }
        for (code, name, status) in [
            (Code::IncompleteSignature, "IncompleteSignature", 400),
            (Code::SignatureDoesNotMatch, "SignatureDoesNotMatch", 400),
            (Code::TimeStampFormat, "InvalidTimeStamp.Format", 400),
            (Code::TimeStampExpired, "InvalidTimeStamp.Expired", 400),
            (Code::TokenMalformed, "InvalidSecurityToken.Malformed", 400),
            (Code::UnsupportedMethod, "UnsupportedHTTPMethod", 400),
            (Code::Internal, "InternalError", 500),
            (Code::Unavailable, "ServiceUnavailable", 503),
        ] {
            assert_eq!((&*code.name(), code.status()), (name, status));
        }
    }

    #[test]
    fn a_refusal_never_prints_its_message() {
        let refusal = Refusal::because(Code::SignatureDoesNotMatch, "secret");
        assert!(refusal.message.ends_with(" secret"));
        assert!(!format!("{refusal} {refusal:?}").contains("secret"));
    }
}
