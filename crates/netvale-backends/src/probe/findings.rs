//! The same in words, a line each.

use super::{Interface, Privileges};
use crate::af_xdp::{MOST_QUEUES, Queues};

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works, with a limit.
    Limited,
    /// It stands in the way.
    Bad,
}

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// How good it is.
    pub verdict: Verdict,
    /// What was found and, if it is not good, what follows and what can be done.
    pub text: String,
}

fn finding(what: &'static str, verdict: Verdict, text: impl Into<String>) -> Finding {
    Finding {
        what,
        verdict,
        text: text.into(),
    }
}

impl Privileges {
    /// In words.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        found.push(if self.suffice() {
            finding("privileges", Verdict::Good, "interfaces can be opened")
        } else {
            let text = match self.loads {
                true => format!("{self}; run the server as root or give it these capabilities"),
                false => self.to_string(),
            };
            finding("privileges", Verdict::Bad, text)
        });
        if self.suffice() && !self.ipc_lock {
            let text = "without CAP_IPC_LOCK the limit of locked memory (ulimit -l) must \
                        hold the buffers of all interfaces";
            found.push(finding("locked memory", Verdict::Limited, text));
        }
        found
    }
}

impl Interface {
    /// In words.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut found = vec![self.state(), self.size(), self.xdp_support()];
        found.extend(self.xdp_holder());
        found.push(self.host_rings());
        found.extend(self.tags());
        found.extend(self.joined());
        found
    }

    fn state(&self) -> Finding {
        let driver = self.driver.as_deref().unwrap_or("unknown");
        let queues = format!(
            "driver {driver}, {} rx and {} tx queues",
            self.rx_queues, self.tx_queues
        );
        match self.up {
            true => finding("interface", Verdict::Good, queues),
            false => finding(
                "interface",
                Verdict::Bad,
                format!("{queues}; it is down (ip link set {} up)", self.name),
            ),
        }
    }

    fn size(&self) -> Finding {
        const HEADER: u32 = 18;
        const BUFFER: u32 = 2048;
        let text = format!("MTU {}", self.mtu);
        if self.mtu.saturating_add(HEADER) <= BUFFER {
            return finding("frame size", Verdict::Good, text);
        }
        let text = format!("{text}: frames take several slots (or lower it to 2030)");
        finding("frame size", Verdict::Limited, text)
    }

    fn xdp_support(&self) -> Finding {
        let what = "AF_XDP";
        let queues = Queues {
            channels: self.channels,
            made: self.rx_queues,
        };
        if let Some(receive) = queues.unheard(queues.used()) {
            let why = match self.channels {
                Some(_) => format!(
                    "ports have {MOST_QUEUES} rings (ethtool -L {} combined {MOST_QUEUES}, or rx \
                     {MOST_QUEUES})",
                    self.name
                ),
                None => format!(
                    "the driver does not say how many are in use, and sockets would have the \
                     frames of {} only",
                    queues.used()
                ),
            };
            let text = format!("none with {receive} receive queues: {why}");
            return finding(what, Verdict::Limited, text);
        }
        match self.features {
            Some(f) if f.native && f.redirect && f.zero_copy => {
                finding(what, Verdict::Good, "native, zero copy")
            }
            Some(f) if f.native && f.redirect => finding(
                what,
                Verdict::Limited,
                "native with a copy for each frame: the driver has no zero copy",
            ),
            Some(_) => finding(
                what,
                Verdict::Limited,
                "generic only, about half the rate: the driver has no native XDP as the \
                 interface is set up",
            ),
            None => finding(
                what,
                Verdict::Limited,
                "the kernel does not say what the driver can do (Linux 6.3); it will be tried",
            ),
        }
    }

    fn xdp_holder(&self) -> Option<Finding> {
        let (mode, id) = None
            .or(self.xdp.offloaded.map(|id| ("offloaded", id)))
            .or(self.xdp.native.map(|id| ("native", id)))
            .or(self.xdp.generic.map(|id| ("generic", id)))?;
        let text = format!(
            "{mode} XDP program {id} is attached: netvale cannot attach its own \
             (ip link set dev {} xdp off)",
            self.name
        );
        Some(finding("XDP program", Verdict::Bad, text))
    }

    fn host_rings(&self) -> Finding {
        let what = "host rings";
        let Some((ingress, egress)) = &self.tcx else {
            let text = "no tcx: they need Linux 6.6 and CAP_NET_ADMIN";
            return finding(what, Verdict::Bad, text);
        };
        let others: Vec<&str> = ingress
            .iter()
            .chain(egress)
            .map(String::as_str)
            .filter(|name| !name.starts_with("nv_"))
            .collect();
        match others.is_empty() {
            true => finding(what, Verdict::Good, "tcx"),
            false => finding(
                what,
                Verdict::Limited,
                format!("tcx; other programs run first: {}", others.join(", ")),
            ),
        }
    }

    fn tags(&self) -> Option<Finding> {
        if self.features.is_some_and(|f| f.native && f.tells_tags) {
            let text = "those beside frames are told to AF_XDP, which puts them back";
            return Some(finding("VLAN tags", Verdict::Good, text));
        }
        let text = match self.driver.as_deref() {
            Some("veth") => "tags that the other end has beside its frames, as a bridge or a VLAN \
                             interface there, are lost through AF_XDP (there: ethtool -K PEER \
                             txvlan off tx-vlan-stag-hw-insert off; or parameter admode 2)"
                .into(),
            _ => format!(
                "those that the interface takes out of frames may be lost through AF_XDP \
                 (ethtool -K {} rxvlan off)",
                self.name
            ),
        };
        let may = self.offloads.rx_vlan;
        may.then(|| finding("VLAN tags", Verdict::Limited, text))
    }

    fn joined(&self) -> Option<Finding> {
        self.offloads.lro.then(|| {
            let text = format!(
                "the device joins packets, which excludes native XDP (ethtool -K {} lro off)",
                self.name
            );
            finding("LRO", Verdict::Bad, text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Offloads, XdpFeatures};
    use super::*;
    use crate::bpf::XdpState;

    fn interface() -> Interface {
        Interface {
            name: "eth9".into(),
            index: 9,
            up: true,
            mtu: 1500,
            driver: Some("ice".into()),
            rx_queues: 4,
            tx_queues: 4,
            channels: Some((4, 4)),
            rings: Some((2048, 2048)),
            offloads: Offloads::default(),
            xdp: XdpState::default(),
            features: Some(XdpFeatures {
                native: true,
                redirect: true,
                transmit: true,
                zero_copy: true,
                pieces: true,
                zero_copy_pieces: 5,
                tells_tags: true,
            }),
            tcx: Some((vec![], vec![])),
        }
    }

    fn of(what: &str, interface: &Interface) -> Option<(Verdict, String)> {
        let found = interface.findings();
        let one = found.into_iter().find(|f| f.what == what)?;
        Some((one.verdict, one.text))
    }

    #[test]
    fn a_good_interface_has_good_findings_only() {
        let found = interface().findings();
        assert!(
            found.iter().all(|f| f.verdict == Verdict::Good),
            "{found:?}"
        );
    }

    #[test]
    fn each_obstacle_is_named_with_its_remedy() {
        let mut i = interface();
        i.up = false;
        i.mtu = 9000;
        i.features = Some(XdpFeatures::default());
        i.xdp.native = Some(12);
        i.tcx = None;
        i.offloads.lro = true;
        i.driver = Some("veth".into());
        i.offloads.rx_vlan = true;
        let (verdict, text) = of("interface", &i).unwrap();
        assert!(verdict == Verdict::Bad && text.contains("ip link set eth9 up"));
        assert_eq!(of("frame size", &i).unwrap().0, Verdict::Limited);
        assert!(of("AF_XDP", &i).unwrap().1.starts_with("generic only"));
        assert!(of("XDP program", &i).unwrap().1.contains("program 12"));
        assert_eq!(of("host rings", &i).unwrap().0, Verdict::Bad);
        assert!(of("LRO", &i).unwrap().1.contains("lro off"));
        assert!(of("VLAN tags", &i).unwrap().1.contains("txvlan off"));
        (i.rx_queues, i.channels) = (17, Some((17, 17)));
        let (verdict, text) = of("AF_XDP", &i).unwrap();
        assert!(verdict == Verdict::Limited && text.starts_with("none with 17 receive queues:"));
        assert!(text.contains("ethtool -L eth9"), "{text}");
        // A bond, for one.
        (i.rx_queues, i.channels) = (16, None);
        let (verdict, text) = of("AF_XDP", &i).unwrap();
        assert!(verdict == Verdict::Limited && text.starts_with("none with 16 receive queues:"));
        assert!(!text.contains("ethtool"), "the driver would refuse: {text}");
        i.driver = Some("ixgbe".into());
        // To programs in the stack it does not tell them.
        i.features = Some(XdpFeatures {
            tells_tags: true,
            ..XdpFeatures::default()
        });
        let (verdict, text) = of("VLAN tags", &i).unwrap();
        assert!(verdict == Verdict::Limited && text.contains("eth9 rxvlan off"));
        i.tcx = Some((vec!["cil_from_netdev".into()], vec!["nv_host_out".into()]));
        let (verdict, text) = of("host rings", &i).unwrap();
        assert_eq!(verdict, Verdict::Limited);
        assert!(text.ends_with("first: cil_from_netdev"));
    }

    #[test]
    fn missing_privileges_are_listed() {
        let some = Privileges {
            net_admin: true,
            loads: true,
            ..Privileges::default()
        };
        assert_eq!(some.to_string(), "missing: CAP_NET_RAW, CAP_BPF");
        assert_eq!(some.findings()[0].verdict, Verdict::Bad);
        let most = Privileges {
            net_admin: true,
            net_raw: true,
            bpf: true,
            loads: true,
            refusal: None,
            ipc_lock: false,
        };
        let verdicts = most.findings().into_iter().map(|f| f.verdict);
        assert!(verdicts.eq([Verdict::Good, Verdict::Limited]));
        // As in a user namespace.
        let shut = Privileges {
            loads: false,
            ..most
        };
        assert_eq!(shut.findings()[0].verdict, Verdict::Bad);
        assert!(shut.to_string().contains("BPF programs"), "{shut}");
        let refused = Privileges {
            refusal: Some("no memory".into()),
            ..shut
        };
        if !crate::bpf::in_user_namespace() {
            let said = refused.to_string();
            assert_eq!(said, "the kernel refuses BPF programs: no memory");
        }
    }
}
