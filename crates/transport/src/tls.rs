//! Mutual TLS between peers: both ends show a certificate of the cell's CA that names their host.
//!
//! The chain is checked while TLS is set up, the name only afterwards: whoever connects to an address often does not know yet
//! which host answers there. Who it says it is, is in the handshake that follows, and the certificate has to name that host
//! ([`Tls::names`]).

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use skein_model::HostId;
use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Arc;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What a peer shows and whom it believes. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) connector: TlsConnector,
    own: CertificateDer<'static>,
}

/// Why there is no TLS to be had from the given files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The text is not what it should be.
    #[error("{what} cannot be read: {why}; it has to be PEM")]
    Unreadable {
        /// Which of the three.
        what: &'static str,
        /// What the reader says.
        why: String,
    },
    /// The text holds none.
    #[error("{what} holds nothing: there has to be a PEM block in it")]
    Empty {
        /// Which of the three.
        what: &'static str,
    },
    /// The pieces do not belong together, or are of a kind that is not supported.
    #[error("certificates cannot be used: {0}")]
    Unusable(String),
    /// Our own certificate is somebody else's.
    #[error("the certificate does not name this host: it needs {} as a DNS name", host_name(*.host))]
    OtherHost {
        /// Who we are.
        host: HostId,
    },
}

/// The name that the certificate of a host has to carry, as a DNS name among its subject's alternative names.
pub fn host_name(host: HostId) -> String {
    format!("host-{:016x}.skein", host.0)
}

impl Tls {
    /// From PEM texts: the CA's certificates, our chain (our own certificate first), and its private key.
    pub fn from_pem(ca: &str, chain: &str, key: &str) -> Result<Tls, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for root in certificates("the CA's certificate", ca)? {
            roots.add(root).map_err(|error| TlsError::Unusable(format!("the CA's certificate: {error}")))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates("the certificate", chain)?;
        let own = chain.first().cloned().ok_or(TlsError::Empty { what: "the certificate" })?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| TlsError::Unreadable { what: "the private key", why: error.to_string() })?;
        let unusable = |error: &dyn fmt::Display| TlsError::Unusable(error.to_string());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| unusable(&error))?;
        // Both ends are Skein: nothing older than TLS 1.3 is ever needed.
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| unusable(&error))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| unusable(&error))?;
        let algorithms = provider.signature_verification_algorithms;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| unusable(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Chain { roots, algorithms }))
            .with_client_auth_cert(chain, key)
            .map_err(|error| unusable(&error))?;
        // Tickets would only let a connection skip showing its certificate.
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Tls {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
            own,
        })
    }

    /// Whether our own certificate is that of the host.
    pub(crate) fn check_own(&self, host: HostId) -> Result<(), TlsError> {
        if Tls::names(&self.own, host) { Ok(()) } else { Err(TlsError::OtherHost { host }) }
    }

    /// Whether a certificate, whose chain was checked, is that of the host.
    pub(crate) fn names(certificate: &CertificateDer<'_>, host: HostId) -> bool {
        let Ok(name) = ServerName::try_from(host_name(host)) else { return false };
        ParsedCertificate::try_from(certificate)
            .and_then(|parsed| rustls::client::verify_server_name(&parsed, &name))
            .is_ok()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Unreadable { what, why: error.to_string() })?;
    if found.is_empty() { Err(TlsError::Empty { what }) } else { Ok(found) }
}

/// Checks everything about the other end's certificate but its name.
#[derive(Debug)]
struct Chain {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Chain {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The name that is asked for when nobody knows yet who answers.
pub(crate) fn any_host() -> ServerName<'static> {
    ServerName::try_from("peer.skein").unwrap_or_else(|_| ServerName::IpAddress(Ipv6Addr::LOCALHOST.into()))
}
