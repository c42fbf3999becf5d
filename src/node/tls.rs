//! Whether TLS can begin: rustls panics at the first connection if nobody has chosen its cryptography.

/// Whether rustls knows which cryptography to use. The application chooses it, or rustls' features do if they leave
/// no choice.
#[cfg(feature = "tls-rustls")]
pub(super) fn has_provider() -> bool {
    rustls::crypto::CryptoProvider::get_default().is_some() || features::name_a_provider()
}

/// The system's library needs no choice.
#[cfg(not(feature = "tls-rustls"))]
pub(super) const fn has_provider() -> bool {
    true
}

/// What to do about it.
pub(super) const NO_PROVIDER: &str = "TLS with rustls needs a crypto provider, and none is chosen; before the manager \
    is built, call `rustls::crypto::ring::default_provider().install_default()` (or that of `aws_lc_rs`), or enable \
    just one of the features `ring` and `aws_lc_rs` of rustls";

/// Which of rustls' features are on, whoever in the program has asked for them. Nothing else tells: rustls itself
/// answers with a panic. The names of its modules hide those below, where it has them.
#[cfg(feature = "tls-rustls")]
mod features {
    use rustls::crypto::CryptoProvider;

    /// Whether there is just one provider, so that rustls takes it unasked.
    pub(super) fn name_a_provider() -> bool {
        #[allow(
            unused_imports,
            reason = "without these features it brings nothing that is used here"
        )]
        use rustls::crypto::*;
        is_there(ring::default_provider) != is_there(aws_lc_rs::default_provider)
    }

    fn is_there<T: Provider>(_: fn() -> T) -> bool {
        T::IS_THERE
    }

    trait Provider {
        const IS_THERE: bool;
    }

    impl Provider for CryptoProvider {
        const IS_THERE: bool = true;
    }

    struct Missing;

    impl Provider for Missing {
        const IS_THERE: bool = false;
    }

    #[allow(dead_code, reason = "hidden by rustls' own if that is there")]
    mod ring {
        pub(super) const fn default_provider() -> super::Missing {
            super::Missing
        }
    }

    #[allow(dead_code, reason = "hidden by rustls' own if that is there")]
    mod aws_lc_rs {
        pub(super) const fn default_provider() -> super::Missing {
            super::Missing
        }
    }
}
