//! Who may do what: the matrix of domain.md 2.4 as data. Everything not granted here is denied.

use serde::{Deserialize, Serialize};

use super::Role;
use crate::Context;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Users, roles, keys.
    Users,
    /// Properties, units, holds, blocks.
    Properties,
    Maintenance,
    Parties,
    /// Leases, documents, notices.
    Leases,
    /// Evictions, obligations.
    Evictions,
    /// Ledgers, payments, deposits.
    Ledgers,
    /// Expenses, owner book, period locks.
    Expenses,
    FinanceReports,
    LegalReports,
    OccupancyReports,
    /// Audit trail and `known_at` reads; for which contexts, says [`audited`].
    AuditTrail,
}

impl Capability {
    pub const ALL: [Self; 12] = [
        Self::Users,
        Self::Properties,
        Self::Maintenance,
        Self::Parties,
        Self::Leases,
        Self::Evictions,
        Self::Ledgers,
        Self::Expenses,
        Self::FinanceReports,
        Self::LegalReports,
        Self::OccupancyReports,
        Self::AuditTrail,
    ];
}

/// Ordered from weakest to strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    None,
    /// Only what concerns the caller's own party. Of ledgers: to read.
    Own,
    /// As `Own`, and to sign or decline as a named signer.
    OwnSign,
    /// To read, with personal fields masked.
    Masked,
    /// To propose; somebody else approves.
    Propose,
    Read,
    Write,
}

impl Access {
    /// May read what is not the caller's own, masked or whole.
    pub fn may_read_any(self) -> bool {
        match self {
            Self::Masked | Self::Read | Self::Write => true,
            Self::None | Self::Own | Self::OwnSign | Self::Propose => false,
        }
    }

    pub fn may_read_own(self) -> bool {
        match self {
            Self::Own | Self::OwnSign | Self::Masked | Self::Read | Self::Write => true,
            Self::None | Self::Propose => false,
        }
    }

    pub fn may_write(self) -> bool {
        match self {
            Self::Write => true,
            Self::None | Self::Own | Self::OwnSign | Self::Masked | Self::Propose | Self::Read => false,
        }
    }
}

pub fn access(role: Role, capability: Capability) -> Access {
    match role {
        Role::Admin => admin(capability),
        Role::Finance => finance(capability),
        Role::Legal => legal(capability),
        Role::Units => units(capability),
        Role::Tenant => tenant(capability),
        Role::Auditor => auditor(capability),
    }
}

/// The strongest access of several roles; none for no role.
pub fn strongest(roles: impl IntoIterator<Item = Role>, capability: Capability) -> Access {
    roles.into_iter().map(|role| access(role, capability)).max().unwrap_or(Access::None)
}

/// Does any of the roles give an access that satisfies the question? For accesses that are not merely stronger or weaker:
/// one who reads all leases by one role may still sign their own by another.
pub fn any(roles: impl IntoIterator<Item = Role>, capability: Capability, question: impl Fn(Access) -> bool) -> bool {
    roles.into_iter().any(|role| question(access(role, capability)))
}

/// The contexts whose audit trail (and `known_at` reads) a role sees.
pub fn audited(role: Role) -> &'static [Context] {
    match role {
        Role::Admin | Role::Auditor => &Context::ALL,
        Role::Finance => &[Context::Finances],
        Role::Legal => &[Context::Legal],
        Role::Units | Role::Tenant => &[],
    }
}

fn admin(capability: Capability) -> Access {
    match capability {
        Capability::Users
        | Capability::Properties
        | Capability::Maintenance
        | Capability::Parties
        | Capability::Leases
        | Capability::Evictions
        | Capability::Ledgers
        | Capability::Expenses
        | Capability::FinanceReports
        | Capability::LegalReports
        | Capability::OccupancyReports => Access::Write,
        Capability::AuditTrail => Access::Read,
    }
}

fn finance(capability: Capability) -> Access {
    match capability {
        Capability::Ledgers | Capability::Expenses | Capability::FinanceReports | Capability::OccupancyReports => {
            Access::Write
        }
        Capability::Properties
        | Capability::Maintenance
        | Capability::Leases
        | Capability::Evictions
        | Capability::AuditTrail => Access::Read,
        Capability::Parties => Access::Masked,
        Capability::Users | Capability::LegalReports => Access::None,
    }
}

fn legal(capability: Capability) -> Access {
    match capability {
        Capability::Parties
        | Capability::Leases
        | Capability::Evictions
        | Capability::LegalReports
        | Capability::OccupancyReports => Access::Write,
        Capability::Properties | Capability::Maintenance | Capability::Ledgers | Capability::AuditTrail => Access::Read,
        Capability::Users | Capability::Expenses | Capability::FinanceReports => Access::None,
    }
}

fn units(capability: Capability) -> Access {
    match capability {
        Capability::Properties | Capability::Maintenance | Capability::OccupancyReports => Access::Write,
        Capability::Leases => Access::Read,
        Capability::Parties => Access::Masked,
        Capability::Expenses => Access::Propose,
        Capability::Users
        | Capability::Evictions
        | Capability::Ledgers
        | Capability::FinanceReports
        | Capability::LegalReports
        | Capability::AuditTrail => Access::None,
    }
}

fn tenant(capability: Capability) -> Access {
    match capability {
        Capability::Maintenance | Capability::Parties | Capability::Ledgers => Access::Own,
        Capability::Leases => Access::OwnSign,
        Capability::Users
        | Capability::Properties
        | Capability::Evictions
        | Capability::Expenses
        | Capability::FinanceReports
        | Capability::LegalReports
        | Capability::OccupancyReports
        | Capability::AuditTrail => Access::None,
    }
}

fn auditor(capability: Capability) -> Access {
    match capability {
        Capability::Parties => Access::Masked,
        Capability::Users
        | Capability::Properties
        | Capability::Maintenance
        | Capability::Leases
        | Capability::Evictions
        | Capability::Ledgers
        | Capability::Expenses
        | Capability::FinanceReports
        | Capability::LegalReports
        | Capability::OccupancyReports
        | Capability::AuditTrail => Access::Read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// domain.md 2.4 as written; the reports' line is three lines here.
    const TABLE: &str = "
        Users            | W | – | –       | – | –        | R
        Properties       | W | R | R       | W | –        | R
        Maintenance      | W | R | R       | W | o        | R
        Parties          | W | M | W       | M | o        | M
        Leases           | W | R | W       | R | o (sign) | R
        Evictions        | W | R | W       | – | –        | R
        Ledgers          | W | W | R       | – | o (R)    | R
        Expenses         | W | W | –       | P | –        | R
        FinanceReports   | W | W | –       | – | –        | R
        LegalReports     | W | – | W       | – | –        | R
        OccupancyReports | W | W | W       | W | –        | R
        AuditTrail       | R | R | R       | – | –        | R
    ";

    fn letter(text: &str) -> Access {
        match text {
            "–" => Access::None,
            "o" | "o (R)" => Access::Own,
            "o (sign)" => Access::OwnSign,
            "M" => Access::Masked,
            "P" => Access::Propose,
            "R" => Access::Read,
            "W" => Access::Write,
            other => panic!("{other:?} is not in the legend"),
        }
    }

    #[test]
    fn the_matrix_is_the_table_of_the_specification() {
        let lines: Vec<Vec<&str>> = TABLE
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        assert_eq!(lines.len(), Capability::ALL.len());
        for (capability, line) in Capability::ALL.into_iter().zip(lines) {
            assert_eq!(format!("{capability:?}"), line[0]);
            for (role, cell) in Role::ALL.into_iter().zip(&line[1..]) {
                assert_eq!(access(role, capability), letter(cell), "{role} on {capability:?}");
            }
        }
    }

    #[test]
    fn without_a_role_nothing_is_allowed() {
        assert!(Capability::ALL.into_iter().all(|capability| strongest([], capability) == Access::None));
    }

    #[test]
    fn the_strongest_of_several_roles_wins() {
        assert_eq!(strongest([Role::Tenant, Role::Units], Capability::Parties), Access::Masked);
        assert_eq!(strongest([Role::Auditor, Role::Finance], Capability::Ledgers), Access::Write);
        let both = [Role::Tenant, Role::Finance];
        assert_eq!(strongest(both, Capability::Leases), Access::Read);
        assert!(any(both, Capability::Leases, |access| access == Access::OwnSign));
    }

    #[test]
    fn finance_and_legal_audit_their_own_context_only() {
        assert_eq!(audited(Role::Finance), [Context::Finances]);
        assert_eq!(audited(Role::Legal), [Context::Legal]);
        for role in Role::ALL {
            assert_eq!(access(role, Capability::AuditTrail) == Access::None, audited(role).is_empty());
        }
    }
}
