//! Where a stranger comes from, as limits count it.

use std::net::IpAddr;

/// What counts as one address. Of IPv6 a machine has a whole network of 2^64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                Self::V6(*address.octets().first_chunk().expect("16 bytes have a first half"))
            }
        }
    }
}
