//! `lineside certs ca`: what clients over HTTPS need.

use clap::Args;
use lineside_certs::{IDENTITY_DIRECTORY, Identity};

use crate::{
    args::SettingsArgs,
    exit::{Exit, Failure, OrFail as _, Outcome},
    output,
};

/// `lineside certs ca`.
#[derive(Debug, Args)]
pub(crate) struct CaArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

impl CaArgs {
    /// Prints the authorities that the identity on this machine trusts.
    pub(crate) fn run(self) -> Outcome {
        output::data(self.text()?)?;
        Ok(Exit::Ok)
    }

    fn text(self) -> Result<String, Failure> {
        let directory = self.settings.load(Vec::new())?.config.data_dir().join(IDENTITY_DIRECTORY);
        let identity = Identity::load(&directory).or_fail(
            Exit::Failure,
            "the authority of the cluster is not known here",
            "run this on a machine of the cluster, or name its --data-dir",
        )?;
        Ok(identity.trust().authorities_pem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::certs::tests::Desk;

    #[test]
    fn the_authority_is_printed_for_clients_and_no_key_with_it() {
        let text = CaArgs { settings: Desk::founded("press").settings() }.text().expect("there is one");
        assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 1, "{text}");
        assert!(!text.contains("KEY"));
    }

    #[test]
    fn where_no_member_is_there_is_none() {
        let refused =
            CaArgs { settings: Desk::empty("press").settings() }.text().expect_err("nobody is here");
        assert!(refused.text().contains("--data-dir"), "{}", refused.text());
    }
}
