//! `lineside certs join`: a token becomes a client's identity.

use std::path::PathBuf;

use clap::Args;
use lineside_certs::{Identity, Token};
use lineside_wire::Role;

use super::{make::check_free, office::unusable_identity};
use crate::{
    args::SettingsArgs,
    commands::connect::runtime,
    exit::{Exit, OrFail as _, Outcome},
    output::{self, utc},
};

/// `lineside certs join`.
#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The token that `lineside token create --role client` printed
    #[arg(value_parser = token)]
    token: Token,
    /// A directory that is made, for --identity of other commands and for programs
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The client's name for people; one that the token was made for outranks it [default: the host's name]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
}

fn token(text: &str) -> Result<Token, String> {
    text.parse().map_err(|error: lineside_certs::InvalidToken| error.to_string())
}

impl JoinArgs {
    pub(super) fn run(self) -> Outcome {
        let Self { token, out, name, settings } = self;
        let name = match name {
            Some(name) => name,
            None => settings.load(Vec::new())?.config.name(),
        };
        // Before the token is used up: it can be used once.
        check_free(&out)?;
        let issued = runtime()?.block_on(lineside_client::enrol(&token, Role::Client, &name));
        let issued = issued.or_fail(Exit::Failure, "cannot join the cluster", "")?;
        let what =
            format!("this machine was let in, but the identity cannot be written to {}", out.display());
        let kept = Identity::store(&out, &issued).and_then(|()| Identity::load(&out));
        let kept = kept.map_err(|error| unusable_identity(&what, &error))?;
        output::data(format_args!("client {} ({}) in {}\n", kept.node(), kept.name(), out.display()))?;
        let ends = super::office::seconds(kept.not_after());
        output::note(format_args!(
            "\nGood until {}; programs of the client library renew it while they run. To use it:\n  lineside members \
             --identity {} --connect {}",
            utc(ends),
            out.display(),
            token.addresses().first().map_or("HOST", String::as_str),
        ));
        Ok(Exit::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::certs::tests::Desk;

    #[test]
    fn a_damaged_token_is_refused_before_anybody_is_asked() {
        let told = token("ls1.abc").unwrap_err();
        assert!(told.contains("lineside token create"), "{told}");
    }

    #[test]
    fn a_token_is_not_used_up_for_a_place_that_is_taken() {
        let desk = Desk::founded("press");
        let authority = lineside_certs::Authority::load(&desk.authority()).unwrap();
        let order = lineside_certs::TokenOrder {
            role: Role::Client,
            name: None,
            lifetime: lineside_certs::TOKEN_LIFETIME,
        };
        let token = authority.create_token(&order, super::super::office::now()).unwrap();
        // Nobody is there: the refusal below comes before that is noticed.
        let token = token.at(vec!["127.0.0.1:9".to_owned()]);
        let out = desk.data().join(lineside_certs::IDENTITY_DIRECTORY);
        let join = JoinArgs { token, out, name: Some("camera".to_owned()), settings: desk.settings() };
        assert!(join.run().unwrap_err().text().contains("never replaced"));
    }
}
