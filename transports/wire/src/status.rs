//! Status codes (Base 2.1, 4.2.3; NVM 1.1, "Status Codes").

use core::fmt;

/// The Status field of a completion without its phase bit: bits 7:0 SC, 10:8 SCT, 12:11 CRD, 13 M, 14 DNR.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status(u16);

macro_rules! codes {
    ($($(#[$m:meta])* $name:ident = $sct:literal, $sc:literal, $text:literal;)*) => {
        impl Status {
            $(#[doc = concat!($text, " (SCT ", stringify!($sct), "h, SC ", stringify!($sc), ").")] $(#[$m])*
            pub const $name: Status = Status(($sct << 8) | $sc);)*

            /// The specification's name of the code, or `None` for one that is not listed here.
            pub fn name(self) -> Option<&'static str> {
                match self.code() {
                    $(c if c == Status::$name.0 => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    SUCCESS = 0x0, 0x00, "Successful Completion";
    INVALID_OPCODE = 0x0, 0x01, "Invalid Command Opcode";
    INVALID_FIELD = 0x0, 0x02, "Invalid Field in Command";
    CID_CONFLICT = 0x0, 0x03, "Command ID Conflict";
    DATA_TRANSFER_ERROR = 0x0, 0x04, "Data Transfer Error";
    INTERNAL_ERROR = 0x0, 0x06, "Internal Error";
    ABORT_REQUESTED = 0x0, 0x07, "Command Abort Requested";
    ABORT_SQ_DELETION = 0x0, 0x08, "Command Aborted due to SQ Deletion";
    ABORT_FAILED_FUSED = 0x0, 0x09, "Command Aborted due to Failed Fused Command";
    ABORT_MISSING_FUSED = 0x0, 0x0a, "Command Aborted due to Missing Fused Command";
    INVALID_NAMESPACE = 0x0, 0x0b, "Invalid Namespace or Format";
    COMMAND_SEQUENCE_ERROR = 0x0, 0x0c, "Command Sequence Error";
    INVALID_SGL_SEGMENT = 0x0, 0x0d, "Invalid SGL Segment Descriptor";
    INVALID_SGL_COUNT = 0x0, 0x0e, "Invalid Number of SGL Descriptors";
    INVALID_SGL_LENGTH = 0x0, 0x0f, "Data SGL Length Invalid";
    INVALID_SGL_METADATA_LENGTH = 0x0, 0x10, "Metadata SGL Length Invalid";
    INVALID_SGL_TYPE = 0x0, 0x11, "SGL Descriptor Type Invalid";
    OPERATION_DENIED = 0x0, 0x15, "Operation Denied";
    INVALID_SGL_OFFSET = 0x0, 0x16, "SGL Offset Invalid";
    HOST_ID_INCONSISTENT = 0x0, 0x18, "Host Identifier Inconsistent Format";
    KEEP_ALIVE_EXPIRED = 0x0, 0x19, "Keep Alive Timer Expired";
    KEEP_ALIVE_INVALID = 0x0, 0x1a, "Keep Alive Timeout Invalid";
    SANITIZE_FAILED = 0x0, 0x1c, "Sanitize Failed";
    SANITIZE_IN_PROGRESS = 0x0, 0x1d, "Sanitize In Progress";
    NS_WRITE_PROTECTED = 0x0, 0x20, "Namespace is Write Protected";
    COMMAND_INTERRUPTED = 0x0, 0x21, "Command Interrupted";
    TRANSIENT_TRANSPORT_ERROR = 0x0, 0x22, "Transient Transport Error";
    LBA_OUT_OF_RANGE = 0x0, 0x80, "LBA Out of Range";
    CAPACITY_EXCEEDED = 0x0, 0x81, "Capacity Exceeded";
    NS_NOT_READY = 0x0, 0x82, "Namespace Not Ready";
    RESERVATION_CONFLICT = 0x0, 0x83, "Reservation Conflict";
    FORMAT_IN_PROGRESS = 0x0, 0x84, "Format In Progress";
    INVALID_QUEUE_ID = 0x1, 0x01, "Invalid Queue Identifier";
    INVALID_QUEUE_SIZE = 0x1, 0x02, "Invalid Queue Size";
    ABORT_LIMIT_EXCEEDED = 0x1, 0x03, "Abort Command Limit Exceeded";
    AER_LIMIT_EXCEEDED = 0x1, 0x05, "Asynchronous Event Request Limit Exceeded";
    INVALID_FIRMWARE_SLOT = 0x1, 0x06, "Invalid Firmware Slot";
    INVALID_LOG_PAGE = 0x1, 0x09, "Invalid Log Page";
    INVALID_FORMAT = 0x1, 0x0a, "Invalid Format";
    FEATURE_NOT_SAVEABLE = 0x1, 0x0d, "Feature Identifier Not Saveable";
    FEATURE_NOT_CHANGEABLE = 0x1, 0x0e, "Feature Not Changeable";
    FEATURE_NOT_NS_SPECIFIC = 0x1, 0x0f, "Feature Not Namespace Specific";
    INVALID_CONTROLLER_ID = 0x1, 0x1f, "Invalid Controller Identifier";
    IO_COMMAND_SET_NOT_SUPPORTED = 0x1, 0x29, "I/O Command Set Not Supported";
    CONFLICTING_ATTRIBUTES = 0x1, 0x80, "Conflicting Attributes / Connect Incompatible Format";
    INVALID_PROTECTION_INFO = 0x1, 0x81, "Invalid Protection Information / Connect Controller Busy";
    WRITE_TO_READ_ONLY = 0x1, 0x82, "Attempted Write to Read Only Range / Connect Invalid Parameters";
    COMMAND_SIZE_LIMIT_EXCEEDED = 0x1, 0x83, "Command Size Limit Exceeded / Connect Restart Discovery";
    CONNECT_INVALID_HOST = 0x1, 0x84, "Connect Invalid Host";
    DISCOVER_RESTART = 0x1, 0x90, "Discover Restart";
    AUTHENTICATION_REQUIRED = 0x1, 0x91, "Authentication Required";
    WRITE_FAULT = 0x2, 0x80, "Write Fault";
    UNRECOVERED_READ_ERROR = 0x2, 0x81, "Unrecovered Read Error";
    GUARD_CHECK_ERROR = 0x2, 0x82, "End-to-end Guard Check Error";
    COMPARE_FAILURE = 0x2, 0x85, "Compare Failure";
    ACCESS_DENIED = 0x2, 0x86, "Access Denied";
    DEALLOCATED_BLOCK = 0x2, 0x87, "Deallocated or Unwritten Logical Block";
    ANA_PERSISTENT_LOSS = 0x3, 0x01, "Asymmetric Access Persistent Loss";
    ANA_INACCESSIBLE = 0x3, 0x02, "Asymmetric Access Inaccessible";
    ANA_TRANSITION = 0x3, 0x03, "Asymmetric Access Transition";
    HOST_PATH_ERROR = 0x3, 0x70, "Host Pathing Error";
    HOST_ABORTED = 0x3, 0x71, "Command Aborted By Host";
}

impl Status {
    /// Connect Incompatible Format (SCT 1h, SC 80h).
    pub const CONNECT_INCOMPATIBLE_FORMAT: Status = Status::CONFLICTING_ATTRIBUTES;
    /// Connect Controller Busy (SCT 1h, SC 81h).
    pub const CONNECT_CONTROLLER_BUSY: Status = Status::INVALID_PROTECTION_INFO;
    /// Connect Invalid Parameters (SCT 1h, SC 82h).
    pub const CONNECT_INVALID_PARAMETERS: Status = Status::WRITE_TO_READ_ONLY;
    /// Connect Restart Discovery (SCT 1h, SC 83h).
    pub const CONNECT_RESTART_DISCOVERY: Status = Status::COMMAND_SIZE_LIMIT_EXCEEDED;

    /// A status from its type (0..=7) and code.
    pub const fn from_parts(sct: u8, sc: u8) -> Status {
        Status(((sct as u16 & 0x7) << 8) | sc as u16)
    }

    /// From the 16-bit field of a completion, whose bit 0 is the phase.
    pub const fn from_field(field: u16) -> Status {
        Status(field >> 1)
    }

    /// As it stands in a completion: shifted left by one, phase zero.
    pub const fn field(self) -> u16 {
        self.0 << 1
    }

    /// The same with Do Not Retry set.
    #[must_use]
    pub const fn dnr(self) -> Status {
        Status(self.0 | 1 << 14)
    }

    /// The same with More set: the error log has an entry about this.
    #[must_use]
    pub const fn more(self) -> Status {
        Status(self.0 | 1 << 13)
    }

    /// Whether Do Not Retry is set.
    pub const fn is_dnr(self) -> bool {
        self.0 & 1 << 14 != 0
    }

    /// SCT and SC together (bits 10:0), for comparison whatever the flags.
    pub const fn code(self) -> u16 {
        self.0 & 0x7ff
    }

    /// Status Code Type.
    pub const fn sct(self) -> u8 {
        ((self.0 >> 8) & 0x7) as u8
    }

    /// Status Code.
    pub const fn sc(self) -> u8 {
        self.0 as u8
    }

    /// Whether type and code are both zero.
    pub const fn is_success(self) -> bool {
        self.code() == 0
    }

    /// Whether type and code are the same, flags aside.
    pub const fn is(self, other: Status) -> bool {
        self.code() == other.code()
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({:x}h/{:02x}h", self.sct(), self.sc())?,
            None => write!(f, "status ({:x}h/{:02x}h", self.sct(), self.sc())?,
        }
        f.write_str(if self.is_dnr() { ", do not retry)" } else { ")" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_and_parts_agree() {
        let s = Status::LBA_OUT_OF_RANGE.dnr();
        assert_eq!(s.field(), 0x8100);
        assert_eq!(Status::from_field(s.field()), s);
        assert_eq!((s.sct(), s.sc()), (0, 0x80));
        assert!(s.is(Status::LBA_OUT_OF_RANGE) && s != Status::LBA_OUT_OF_RANGE);
        assert_eq!(Status::from_parts(2, 0x85), Status::COMPARE_FAILURE);
        assert_eq!(s.to_string(), "LBA Out of Range (0h/80h, do not retry)");
    }
}
