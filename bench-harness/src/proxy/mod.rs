//! Stand-in until the proxy is merged.
mod settings;
pub use settings::LinkSettings;
