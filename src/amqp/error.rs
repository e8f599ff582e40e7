//! Reply codes, and the error a client can see.

use std::fmt;

/// AMQP reply codes as RabbitMQ uses them (spec/amqp-behaviour.md §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[expect(missing_docs, reason = "AMQP's own names")]
pub enum ReplyCode {
    Success = 200,
    NoRoute = 312,
    ConnectionForced = 320,
    AccessRefused = 403,
    NotFound = 404,
    ResourceLocked = 405,
    PreconditionFailed = 406,
    FrameError = 501,
    SyntaxError = 502,
    CommandInvalid = 503,
    ChannelError = 504,
    UnexpectedFrame = 505,
    ResourceError = 506,
    NotAllowed = 530,
    NotImplemented = 540,
    InternalError = 541,
}

impl ReplyCode {
    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u16 {
        self as u16
    }

    /// Whether it closes the connection (5xx and 320), not only the channel.
    #[must_use]
    pub fn is_hard(self) -> bool {
        self.code() >= 500 || self == Self::ConnectionForced
    }

    /// The constant's name, which begins the reply text.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "REPLY_SUCCESS",
            Self::NoRoute => "NO_ROUTE",
            Self::ConnectionForced => "CONNECTION_FORCED",
            Self::AccessRefused => "ACCESS_REFUSED",
            Self::NotFound => "NOT_FOUND",
            Self::ResourceLocked => "RESOURCE_LOCKED",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::FrameError => "FRAME_ERROR",
            Self::SyntaxError => "SYNTAX_ERROR",
            Self::CommandInvalid => "COMMAND_INVALID",
            Self::ChannelError => "CHANNEL_ERROR",
            Self::UnexpectedFrame => "UNEXPECTED_FRAME",
            Self::ResourceError => "RESOURCE_ERROR",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::NotImplemented => "NOT_IMPLEMENTED",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }
}

/// A client's fault (or ours, 541): code and explanation. Which method failed is known where it is sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ProtocolError {
    /// The code; decides whether the channel or the connection closes.
    pub code: ReplyCode,
    /// The explanation, without the leading `NAME - `.
    pub text: String,
}

impl ProtocolError {
    /// An error with its explanation.
    pub fn new(code: ReplyCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// The reply-text: `NAME - explanation`, cut to 255 bytes on a character boundary with a trailing `...`
    /// (spec/amqp-behaviour.md §4.2). Just the name if the explanation is empty.
    #[must_use]
    pub fn reply_text(&self) -> String {
        let mut text = if self.text.is_empty() {
            self.code.name().to_owned()
        } else {
            format!("{} - {}", self.code.name(), self.text)
        };
        if text.len() > 255 {
            let mut end = 252;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.push_str("...");
        }
        text
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code.code(), self.reply_text())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_long_text_is_cut_on_a_character_boundary() {
        let text = ProtocolError::new(ReplyCode::NotFound, "ü".repeat(200)).reply_text();
        assert!(text.len() <= 255 && text.ends_with("..."), "{text}");
    }
}
