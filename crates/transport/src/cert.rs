//! Certificates for those who have no CA of their own: one CA for a cell, and a certificate for each of its peers.

use crate::tls::host_name;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use skein_model::HostId;

/// A certificate and its private key, both as PEM.
#[derive(Clone)]
pub struct Pem {
    /// May be shown to anybody.
    pub certificate: String,
    /// Is the secret: whoever has it can pass for its owner.
    pub key: String,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertError {
    /// The given CA cannot sign.
    #[error("the CA's certificate and key cannot be used: {0}")]
    Ca(rcgen::Error),
    /// A name is not one.
    #[error("{name:?} is neither a DNS name nor an IP address: {source}")]
    Name {
        /// As given.
        name: String,
        /// What is wrong with it.
        source: rcgen::Error,
    },
    /// Keys cannot be drawn, or signing failed.
    #[error("make a certificate: {0}")]
    Make(rcgen::Error),
}

/// A new CA, whose certificate all peers of a cell trust. Its key is needed only to make further certificates. Valid from 1975 to
/// 4096: a cell must not stop because a date has passed; to end trust, make a new CA.
pub fn make_ca() -> Result<Pem, CertError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Skein peers");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(CertError::Make)?;
    let certificate = params.self_signed(&key).map_err(CertError::Make)?;
    Ok(Pem { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// A certificate for a host, signed by the CA. `names`: further DNS names and IP addresses to put in, for other uses than Skein's.
pub fn make_peer(ca: &Pem, host: HostId, names: &[String]) -> Result<Pem, CertError> {
    let ca_key = KeyPair::from_pem(&ca.key).map_err(CertError::Ca)?;
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, ca_key).map_err(CertError::Ca)?;
    let own = host_name(host);
    let mut params = CertificateParams::new(vec![own.clone()]).map_err(CertError::Make)?;
    for name in names {
        let further = CertificateParams::new(vec![name.clone()])
            .map_err(|source| CertError::Name { name: name.clone(), source })?;
        params.subject_alt_names.extend(further.subject_alt_names);
    }
    params.distinguished_name.push(DnType::CommonName, own);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().map_err(CertError::Make)?;
    let certificate = params.signed_by(&key, &issuer).map_err(CertError::Make)?;
    Ok(Pem { certificate: certificate.pem(), key: key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{Tls, TlsError};

    #[test]
    fn a_certificate_of_ours_names_its_host_and_no_other() {
        let ca = make_ca().unwrap();
        let pem = make_peer(&ca, HostId(0xF00), &["db1.example".into(), "10.0.0.1".into()]).unwrap();
        let tls = Tls::from_pem(&ca.certificate, &pem.certificate, &pem.key).unwrap();
        assert!(tls.check_own(HostId(0xF00)).is_ok());
        let error = tls.check_own(HostId(0xF01)).unwrap_err();
        assert!(error.to_string().contains("host-0000000000000f01.skein"), "{error}");
    }

    #[test]
    fn pieces_that_do_not_fit_are_refused_with_words() {
        let (ca, other) = (make_ca().unwrap(), make_ca().unwrap());
        let pem = make_peer(&ca, HostId(1), &[]).unwrap();
        let twin = make_peer(&ca, HostId(1), &[]).unwrap();
        assert!(matches!(Tls::from_pem("", &pem.certificate, &pem.key), Err(TlsError::Empty { .. })));
        assert!(matches!(
            Tls::from_pem(&ca.certificate, &pem.certificate, "nonsense"),
            Err(TlsError::Unreadable { what: "the private key", .. })
        ));
        assert!(matches!(
            Tls::from_pem(&ca.certificate, &pem.certificate, &twin.key),
            Err(TlsError::Unusable(_))
        ));
        let mixed = Pem { certificate: ca.certificate.clone(), key: "nonsense".into() };
        assert!(matches!(make_peer(&mixed, HostId(1), &[]), Err(CertError::Ca(_))));
        let bad = make_peer(&other, HostId(1), &["nö".into()]);
        assert!(matches!(bad, Err(CertError::Name { .. })));
    }
}
