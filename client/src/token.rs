//! What a client has seen, in a form that another process can take over.

use std::fmt;
use std::str::FromStr;

use quorate_protocol::request::Token;
use quorate_protocol::{Index, Term};
use thiserror::Error;

/// How far a client has seen the cluster's state: with it another client, in another process too, reads no less.
///
/// Its text is opaque: it comes from [`Display`](fmt::Display) and goes into [`FromStr`], and nothing is to be read
/// from it. It is of one cluster, and means nothing in another, which cannot tell.
///
/// ```
/// use quorate_client::SessionToken;
///
/// let token = SessionToken::default(); // As `Client::session_token` returns it.
/// let text = token.to_string(); // Goes to another process.
/// assert_eq!(text.parse(), Ok(token));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SessionToken(pub(crate) Token);

impl SessionToken {
    /// The last entry of the log that was seen.
    pub fn index(self) -> Index {
        self.0.index
    }

    /// The term of that entry.
    pub fn term(self) -> Term {
        self.0.term
    }
}

/// A text that is no token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("not a session token: give it as it was printed")]
pub struct InvalidToken;

/// Which form the text has.
const FORM: &str = "q1";

impl fmt::Display for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FORM}-{:x}-{:x}", self.0.term, self.0.index)
    }
}

impl FromStr for SessionToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let read = || {
            let rest = text.strip_prefix(FORM)?.strip_prefix('-')?;
            let (term, index) = rest.split_once('-')?;
            let number =
                |digits: &str| u64::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
            Some(Self(Token { term: number(term)?, index: number(index)? }))
        };
        read().ok_or(InvalidToken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_nothing_else_is_one() {
        let token = SessionToken(Token { term: 3, index: u64::MAX });
        assert_eq!(token.to_string().parse(), Ok(token));
        for text in ["", "q1", "q1-", "q1-1", "q1-1-", "q1-1-2-3", "q1-+1-2", "q2-1-2", "1:2", "q1-1-g"] {
            assert_eq!(text.parse::<SessionToken>(), Err(InvalidToken), "{text}");
        }
    }
}
