//! Becoming a client with one token.

use std::{future::IntoFuture, io, path::PathBuf};

use futures_util::future::BoxFuture;
use lineside_certs::{Identity, IdentityError, InvalidToken, Issued, Token, disk};
use lineside_wire::Role;

use super::Client;
use crate::{ClientIdentity, ConnectError, EnrolFailure, enrol};

/// What a program is called that has no name of its own.
const NAMELESS: &str = "client";

/// Longest name of a program that is made up of its file's.
const NAME_BYTES_MAX: usize = lineside_certs::NAME_BYTES_MAX;

/// A text or a [`Token`].
pub trait IntoToken {
    /// The token itself.
    ///
    /// # Errors
    /// The text is none.
    fn into_token(self) -> Result<Token, InvalidToken>;
}

impl IntoToken for Token {
    fn into_token(self) -> Result<Token, InvalidToken> {
        Ok(self)
    }
}

impl IntoToken for &Token {
    fn into_token(self) -> Result<Token, InvalidToken> {
        Ok(self.clone())
    }
}

macro_rules! texts {
    ($($given:ty),*) => {$(
        impl IntoToken for $given {
            fn into_token(self) -> Result<Token, InvalidToken> {
                // A line that was pasted or read from a file brings its end along.
                self.trim().parse()
            }
        }
    )*};
}

texts!(&str, &String, String);

/// Why a program could not become a client of a cluster with a token.
#[derive(Debug, thiserror::Error)]
pub enum JoinFailure {
    /// The text is no token. Nothing was sent.
    #[error(transparent)]
    Token(#[from] InvalidToken),
    /// The directory cannot hold an identity, or the one in it cannot be used. The token was not used.
    #[error("{error}. The token was not used")]
    Directory {
        /// What is wrong.
        error: IdentityError,
    },
    /// The cluster did not take this program in.
    #[error(transparent)]
    Enrol(#[from] EnrolFailure),
    /// The identity that the token brought could not be kept: it is lost.
    #[error("this program joined, and its identity could not be kept: {error}. Make room, and a new token")]
    NotKept {
        /// What is wrong.
        error: IdentityError,
    },
    /// The directory held an identity, which was used in the place of the token, and nobody took it.
    #[error(
        "the identity in {} was used and not the token, and {error}. If the token is for another cluster, or that \
         identity is of no more use, name another directory or move it away",
        directory.display()
    )]
    Known {
        /// The directory.
        directory: PathBuf,
        /// Why there is no client.
        error: ConnectError,
    },
    /// The token was used, the identity is there, and nobody took it.
    #[error("this program joined, and then {error}. {}", after(directory.is_some()))]
    Connect {
        /// Where the identity is kept, if it is.
        directory: Option<PathBuf>,
        /// Why there is no client.
        error: ConnectError,
    },
}

const fn after(is_kept: bool) -> &'static str {
    match is_kept {
        true => "Its identity is kept: start it again",
        false => "Its identity was not kept (`Join::keep_in`), so another try needs a new token",
    }
}

/// A program that is about to become a client: `.await` it. Made by [`Client::join`].
#[must_use = "nothing happens before it is awaited"]
#[derive(Debug)]
pub struct Join {
    token: Result<Token, InvalidToken>,
    name: Option<String>,
    directory: Option<PathBuf>,
}

impl Client {
    /// Becomes a client of the token's cluster, and connects to the addresses in the token.
    ///
    /// The token is used up by that, and the identity that it brings lives as long as this process; see
    /// [`Join::keep_in`] for a program that starts more than once. The token's authority is checked before anything
    /// secret is sent. Takes at most half a minute, and the time to connect.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use lineside_client::Client;
    ///
    /// let token = std::env::var("LINESIDE_TOKEN")?;
    /// let client = Client::join(token).name("camera-4").keep_in("/var/lib/camera/identity").await?;
    /// # drop(client);
    /// # Ok(())
    /// # }
    /// ```
    pub fn join(token: impl IntoToken) -> Join {
        Join { token: token.into_token(), name: None, directory: None }
    }
}

impl Join {
    /// What people read in lists; the program's file name when nothing is said. A name in the token outranks it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Keeps the identity in this directory, and renewed ones after it. When there is one already, that is used and the
    /// token is not: a program can be given the same token, and the same line of code, at every start.
    pub fn keep_in(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    async fn run(self) -> Result<Client, JoinFailure> {
        let token = self.token?;
        let name = self.name.unwrap_or_else(own_name);
        let Some(directory) = self.directory else {
            let issued = enrol(&token, Role::Client, &name).await?;
            let identity = Identity::of(&issued).map_err(|error| JoinFailure::NotKept { error })?;
            let connected = Client::connect(identity, token.addresses()).await;
            return connected.map_err(|error| JoinFailure::Connect { directory: None, error });
        };
        let failed = |error| JoinFailure::Directory { error };
        match ClientIdentity::in_directory(&directory) {
            Ok(known) => {
                let connected = Client::connect(known, token.addresses()).await;
                return connected.map_err(|error| JoinFailure::Known { directory, error });
            }
            Err(IdentityError::Missing(_)) => {}
            Err(error) => return Err(failed(error)),
        }
        // A token is used once: what would lose its identity is found before.
        prove_room(&directory).map_err(failed)?;
        let issued = enrol(&token, Role::Client, &name).await?;
        let identity = keep(&directory, &issued).map_err(|error| JoinFailure::NotKept { error })?;
        let connected = Client::connect(identity, token.addresses()).await;
        connected.map_err(|error| JoinFailure::Connect { directory: Some(directory), error })
    }
}

impl IntoFuture for Join {
    type Output = Result<Client, JoinFailure>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

fn keep(directory: &std::path::Path, issued: &Issued) -> Result<ClientIdentity, IdentityError> {
    Identity::store(directory, issued)?;
    ClientIdentity::in_directory(directory)
}

/// Makes the directory, and writes into it what is removed again.
fn prove_room(directory: &std::path::Path) -> Result<(), IdentityError> {
    /// More than an identity has.
    const ROOM: [u8; 16 << 10] = [0; 16 << 10];
    let probe = directory.join(".room");
    let written = disk::make_private_directory(directory)
        .and_then(|()| disk::write_whole(&probe, &ROOM, disk::SECRET_MODE))
        .and_then(|()| std::fs::remove_file(&probe));
    let failed = |source: io::Error| IdentityError::File { path: directory.to_owned(), source };
    written.map_err(failed)?;
    Ok(disk::check_directory(directory)?)
}

/// The file name of this program, as far as a certificate can carry it.
fn own_name() -> String {
    let program = std::env::current_exe().ok();
    let stem = program.as_deref().and_then(std::path::Path::file_stem).unwrap_or_default();
    sanitised(&stem.to_string_lossy())
}

fn sanitised(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = name.chars().take(NAME_BYTES_MAX).map(|c| if fits(c) { c } else { '-' }).collect();
    if name.is_empty() { NAMELESS.to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_called_like_its_file_as_far_as_a_certificate_carries_it() {
        assert_eq!(sanitised("camera-4_v1.2"), "camera-4_v1.2");
        assert_eq!(sanitised("präge presse"), "pr-ge-presse");
        assert_eq!(sanitised(""), NAMELESS);
        assert_eq!(sanitised(&"x".repeat(100)).len(), NAME_BYTES_MAX);
        assert!(!own_name().is_empty());
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_found_before_the_token_is_used() {
        let home = tempfile::tempdir().unwrap();
        let fresh = home.path().join("a/b");
        prove_room(&fresh).unwrap();
        assert_eq!(std::fs::read_dir(&fresh).unwrap().count(), 0);
        let file = home.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(prove_room(&file.join("identity")).is_err());
    }
}
