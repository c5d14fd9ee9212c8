//! `caisson subsystem ...` and `caisson host ...`: what hosts see, and which hosts.

use super::Output;
use clap::{Subcommand, ValueEnum};

/// `subsystem ...`.
#[derive(Subcommand, Debug)]
pub enum SubsystemCommand {
    /// Create a subsystem
    #[command(after_help = "\
Example:
  caisson subsystem create nqn.2024-01.com.example:data --allow HOSTNQN
  caisson subsystem add-ns nqn.2024-01.com.example:data data")]
    Create {
        /// Its name
        nqn: String,
        /// Serial number; follows from the name where it is missing
        #[arg(long)]
        serial: Option<String>,
        /// Model number
        #[arg(long)]
        model: Option<String>,
        /// Let any host connect
        #[arg(long, alias = "allow-any", conflicts_with = "allow")]
        allow_any_host: bool,
        /// Let hosts erase what its namespaces hold (Format NVM, Sanitize)
        #[arg(long)]
        allow_erase: bool,
        /// A host that may connect; may be repeated
        #[arg(long, value_name = "HOSTNQN")]
        allow: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Delete a subsystem; its hosts are disconnected, its volumes stay
    Delete {
        /// Its name
        nqn: String,
        #[command(flatten)]
        output: Output,
    },
    /// List the subsystems
    List(Output),
    /// Show one subsystem
    Show {
        /// Its name
        nqn: String,
        #[command(flatten)]
        output: Output,
    },
    /// Let hosts erase what its namespaces hold, with Format NVM and Sanitize (on), or not (off)
    AllowErase {
        /// Its name
        nqn: String,
        /// on or off
        #[arg(value_enum)]
        state: OnOff,
        #[command(flatten)]
        output: Output,
    },
    /// Export a volume in a subsystem; connected hosts see it at once
    AddNs {
        /// The subsystem
        nqn: String,
        /// The volume
        volume: String,
        /// The namespace's number; the lowest free one where it is missing
        #[arg(long)]
        nsid: Option<u32>,
        /// The namespace's UUID; a new one where it is missing
        #[arg(long)]
        uuid: Option<uuid::Uuid>,
        /// The namespace's NGUID, 32 hexadecimal digits; the UUID's where it is missing
        #[arg(long)]
        nguid: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Take a namespace away; its volume stays
    RemoveNs {
        /// The subsystem
        nqn: String,
        /// The namespace's number
        nsid: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Let any host connect (on), or only those on the access list (off)
    AllowAny {
        /// The subsystem
        nqn: String,
        /// on or off
        #[arg(value_enum)]
        state: OnOff,
        #[command(flatten)]
        output: Output,
    },
    /// Keep hosts from writing to a namespace (on), or let them (off)
    WriteProtect {
        /// The subsystem
        nqn: String,
        /// The namespace's number
        nsid: u32,
        /// on or off
        #[arg(value_enum)]
        state: OnOff,
        #[command(flatten)]
        output: Output,
    },
}

/// A switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnOff {
    /// On
    On,
    /// Off
    Off,
}

/// `host ...`.
#[derive(Subcommand, Debug)]
pub enum HostCommand {
    /// Let a host connect to a subsystem
    #[command(after_help = "A Linux host's NQN is in its /etc/nvme/hostnqn.")]
    Allow {
        /// The subsystem
        nqn: String,
        /// The host's NQN
        host: String,
        #[command(flatten)]
        output: Output,
    },
    /// Stop a host from connecting; it is disconnected unless any host may connect
    Remove {
        /// The subsystem
        nqn: String,
        /// The host's NQN
        host: String,
        #[command(flatten)]
        output: Output,
    },
    /// List who may connect to what
    List(Output),
}
