//! Keys that verify what others have signed.
//!
//! Owns the reading of keys and the checking of signatures. Invariants: a key is for one algorithm
//! only, which never comes from a token; a key that is too weak is refused when it is read.

use der::{Decode, Reader, SliceReader, asn1::UintRef};
use ring::{
    hmac,
    signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
        UnparsedPublicKey,
    },
};
use spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

use crate::base::secret::SECRET_BYTES_MIN;

/// A modulus has 2048 to 8192 bits.
const RSA_BYTES_MIN: usize = 256;
const RSA_BYTES_MAX: usize = 1024;
/// An uncompressed point: a mark and two coordinates.
const P256_POINT_BYTES: usize = 65;
const P256_COORDINATE_BYTES: usize = 32;
const UNCOMPRESSED: u8 = 4;
const ED25519_BYTES: usize = 32;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ELLIPTIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const ED25519_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// Why a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// It is no key at all.
    #[error("it is not a public key in PEM (BEGIN PUBLIC KEY)")]
    NotAKey,
    /// It is of a kind that none of the algorithms uses.
    #[error("it is none of RSA, P-256 and Ed25519")]
    UnknownKind,
    /// It is an RSA key of less than 2048 or more than 8192 bits.
    #[error("an RSA key has 2048 to 8192 bits")]
    RsaLength,
    /// It is a secret of too few bytes.
    #[error("a secret has at least {SECRET_BYTES_MIN} bytes")]
    ShortSecret,
}

/// A key, and with it the one algorithm that it is for.
pub(super) enum Key {
    /// HS256.
    Hmac(hmac::Key),
    /// RS256: modulus and exponent, without leading zeros.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// ES256.
    P256([u8; P256_POINT_BYTES]),
    /// EdDSA.
    Ed25519([u8; ED25519_BYTES]),
}

impl Key {
    /// Verifies with HMAC.
    pub(super) fn of_secret(secret: &[u8]) -> Result<Self, BadKey> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(BadKey::ShortSecret);
        }
        Ok(Self::Hmac(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// Reads a public key in PEM, as `openssl pkey -pubout` writes it.
    pub(super) fn of_pem(text: &str) -> Result<Self, BadKey> {
        let (label, document) =
            der::Document::from_pem(text.trim()).map_err(|_| BadKey::NotAKey)?;
        if label != "PUBLIC KEY" {
            return Err(BadKey::NotAKey);
        }
        let info =
            SubjectPublicKeyInfoRef::from_der(document.as_bytes()).map_err(|_| BadKey::NotAKey)?;
        let bits = info.subject_public_key.raw_bytes();
        match info.algorithm.oid {
            RSA => Self::of_pkcs1(bits),
            ELLIPTIC if info.algorithm.parameters_oid() == Ok(P256) => {
                let point = bits.try_into().map_err(|_| BadKey::UnknownKind)?;
                Self::of_point(point)
            }
            ED25519_KEY => Ok(Self::Ed25519(bits.try_into().map_err(|_| BadKey::NotAKey)?)),
            _ => Err(BadKey::UnknownKind),
        }
    }

    /// An RSA key as PKCS #1 has it: a sequence of modulus and exponent.
    fn of_pkcs1(bytes: &[u8]) -> Result<Self, BadKey> {
        let parts = SliceReader::new(bytes).and_then(|mut reader| {
            let parts = reader.sequence(|reader| {
                let n = UintRef::decode(reader)?;
                Ok((n, UintRef::decode(reader)?))
            })?;
            reader.finish(parts)
        });
        let (n, e) = parts.map_err(|_| BadKey::NotAKey)?;
        Self::of_rsa(n.as_bytes(), e.as_bytes())
    }

    /// An RSA key of its two numbers, most significant byte first.
    pub(super) fn of_rsa(n: &[u8], e: &[u8]) -> Result<Self, BadKey> {
        let (n, e) = (without_leading_zeros(n), without_leading_zeros(e));
        if e.is_empty() {
            return Err(BadKey::NotAKey);
        }
        if !(RSA_BYTES_MIN..=RSA_BYTES_MAX).contains(&n.len()) {
            return Err(BadKey::RsaLength);
        }
        Ok(Self::Rsa {
            n: n.to_vec(),
            e: e.to_vec(),
        })
    }

    /// A P-256 key of its two coordinates.
    pub(super) fn of_coordinates(x: &[u8], y: &[u8]) -> Result<Self, BadKey> {
        if x.len() != P256_COORDINATE_BYTES || y.len() != P256_COORDINATE_BYTES {
            return Err(BadKey::NotAKey);
        }
        let mut point = [UNCOMPRESSED; P256_POINT_BYTES];
        point[1..=P256_COORDINATE_BYTES].copy_from_slice(x);
        point[1 + P256_COORDINATE_BYTES..].copy_from_slice(y);
        Self::of_point(point)
    }

    fn of_point(point: [u8; P256_POINT_BYTES]) -> Result<Self, BadKey> {
        if point[0] != UNCOMPRESSED {
            return Err(BadKey::NotAKey);
        }
        Ok(Self::P256(point))
    }

    /// An Ed25519 key of its bytes.
    pub(super) fn of_ed25519(bytes: &[u8]) -> Result<Self, BadKey> {
        let bytes = bytes.try_into().map_err(|_| BadKey::NotAKey)?;
        Ok(Self::Ed25519(bytes))
    }

    /// What a token's header calls the algorithm.
    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::Hmac(_) => "HS256",
            Self::Rsa { .. } => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    /// Whether `signature` is this key's over `message`.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match self {
            // `ring` compares in constant time.
            Self::Hmac(key) => hmac::verify(key, message, signature),
            Self::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(
                &RSA_PKCS1_2048_8192_SHA256,
                message,
                signature,
            ),
            Self::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            Self::Ed25519(bytes) => {
                UnparsedPublicKey::new(&ED25519, bytes).verify(message, signature)
            }
        };
        verified.is_ok()
    }
}

fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}
