//! The wire of an interface that clients have open: by AF_XDP, in buffers of
//! the region itself, or by what can be had.

use netvale_backends::bpf::XdpMode;
use netvale_lane::DeviceLane;
use netvale_lane::xdp::{Arena, Fault, Sockets, lockable};
use netvale_ring::kring::KringId;
use netvale_switch::domain::DEFAULT_SLOTS;
use netvale_wire::proto::{ErrorKind, Wanted};

use super::Core;
use super::closing::Closing;
use super::opened::Opened;
use crate::config::Config;
use crate::listing::Refusal;
use crate::pump::{Keep, Nic};

/// Bytes of locked memory beside the buffers: they lie across pages.
const SLACK: u64 = 64 << 10;

/// Buffers beside those of rings with which a queue does well enough.
const LITTLE: u32 = 1024;

/// Why there is no AF_XDP for some programs.
pub(super) const HEADERS: &str = "frames are to have virtio-net headers";
/// Why there is none when netmap's parameter says so.
const EMULATED: &str = "the parameter admode is 2";
/// Why it is left when the host's rings come and the driver has no XDP.
const LOOPS: &str = "its driver has no XDP, and in the stack \
    what is given to the host would come back";
/// What is said of generic XDP.
const NO_XDP: &str = "; its driver has no XDP";

/// How interfaces are driven: netmap's parameter `admode`, as it was when the
/// interface was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// 0: by AF_XDP if possible; if it must be in the stack, only if `generic`
    /// XDP may be.
    Best { generic: bool },
    /// 1: by XDP in the driver, or not at all.
    Native,
    /// 2: by AF_PACKET.
    Emulated,
}

impl Mode {
    pub(super) fn of(config: &Config, nic: Option<&Nic>) -> Self {
        match crate::params::read(&config.namespace, "admode") {
            Some(1) => Self::Native,
            Some(2) => Self::Emulated,
            _ => Self::Best {
                generic: config.generic_xdp || nic.is_some_and(Nic::leaves_tags),
            },
        }
    }
}

impl Opened {
    /// Whether its frames may be taken in the stack if its driver has no XDP.
    /// `host`: frames are given to the host's stack, which would come back.
    fn may_be_generic(&self, host: bool) -> bool {
        !host && self.mode == Mode::Best { generic: true }
    }

    /// Whether the wire is as it is wanted (closed, or open and receiving or
    /// not), or could be made so without opening its sockets anew, which
    /// others may have in use, and for which a driver takes some time. `host`:
    /// frames are given to the host's stack.
    pub(super) fn adapt(&mut self, wanted: Option<bool>, host: bool) -> bool {
        let loops = self.generic && host;
        if self.wire == wanted && !loops {
            return true;
        }
        let (Some(nic), Some(receive), false) = (&self.nic, wanted, self.sockets.is_empty()) else {
            return false;
        };
        self.keep = Keep::default();
        self.generic = false;
        if loops && receive {
            self.unfit = Some(LOOPS.into());
            return false;
        }
        if !receive {
            self.wire = wanted;
            return true;
        }
        let heard = nic.is_all_heard();
        match heard.and_then(|()| nic.redirect(&self.sockets, self.may_be_generic(host))) {
            Ok((keep, mode)) => {
                self.keep = keep;
                self.wire = wanted;
                self.generic = mode == XdpMode::Generic;
                if self.generic && !self.about.contains(NO_XDP) {
                    self.about.push_str(NO_XDP);
                }
                true
            }
            Err(why) => {
                self.unfit = Some(why);
                false
            }
        }
    }

    /// The rings into which its queues' frames are received.
    pub(super) fn inward_rings(&self) -> Vec<KringId> {
        let rings = self.reg.tx.iter().take(self.queues);
        rings.map(|r| r.kring).collect()
    }
}

impl Core {
    /// How many buffers the arena of a region is to have for an interface; or
    /// why there can be none.
    pub(super) fn arena_for(
        &self,
        nic: &Nic,
        want: &Wanted,
        region: Option<u16>,
    ) -> Result<u32, String> {
        nic.is_all_heard()?;
        let slots = |n: u16| u32::from(if n == 0 { DEFAULT_SLOTS } else { n });
        let queues = u32::from(nic.queues());
        let rings = queues * (slots(want.tx_slots) + slots(want.rx_slots));
        let layout = self.domain.layout(region.unwrap_or(0));
        let size = u64::from(layout.map_err(|e| e.to_string())?.geom.buf_size);
        let limit = lockable();
        let most = limit.map_or(u32::MAX, |limit| {
            u32::try_from(limit.saturating_sub(SLACK) / size.max(1)).unwrap_or(u32::MAX)
        });
        match (self.config.device_bufs, limit) {
            (0, _) => Err("the configuration says so".into()),
            (_, Some(limit)) if most < rings + queues * LITTLE => Err(format!(
                "only {} KiB may be locked (ulimit -l, CAP_IPC_LOCK)",
                limit / 1024
            )),
            (least, _) => Ok(least.max(2 * (rings + nic.stock())).min(most)),
        }
    }

    /// The arena in which an interface's rings are; or why there is none.
    fn arena_of(&self, opened: &Opened) -> Result<Arena<'_>, String> {
        let reg = &opened.reg;
        let found = self.domain.arena(reg.region);
        let region = self.domain.region(reg.region, reg.region_gen);
        if let (Some(range), Some((map, file))) = (found, region) {
            return Ok(Arena {
                world: self.domain.world(),
                map,
                range,
                huge: file.is_huge(),
            });
        }
        Err(opened.no_arena.clone())
    }

    /// Opens an interface's wire, or closes it. `wanted`: whether to receive.
    /// `host`: frames are given to the host's stack.
    pub(super) fn rewire(
        &mut self,
        at: usize,
        wanted: Option<bool>,
        host: bool,
    ) -> Result<(), Refusal> {
        let had = self
            .devices
            .opened
            .get(at)
            .is_some_and(|o| o.wire.is_some());
        self.unwire(at);
        let opened = self.devices.opened.get_mut(at);
        let unfit = opened.and_then(|o| o.unfit.take());
        let Some(receive) = wanted else {
            return Ok(());
        };
        self.check_left(at)?;
        // Those who had it would wait too.
        let patient = self.patient && !had;
        let Some((header, mode)) = self.devices.opened.get(at).map(|o| (o.header, o.mode)) else {
            return Ok(());
        };
        let by_xdp = match (header.is_none(), mode) {
            (false, _) => Err(Fault::Other(HEADERS.into())),
            (true, Mode::Emulated) => Err(Fault::Other(EMULATED.into())),
            // Whoever has the old sockets open would only hide that reason.
            (true, _) => match unfit {
                Some(why) => Err(Fault::Other(why)),
                None => self.wire_by_xdp(at, receive, host),
            },
        };
        let (lanes, about) = match by_xdp {
            Ok(done) => done,
            Err(Fault::Busy(why)) if patient => {
                return Err(Refusal::new(ErrorKind::Busy, why).later());
            }
            Err(e) if mode == Mode::Native => {
                let message = format!("no AF_XDP, and the parameter admode is 1: {e}");
                return Err(Refusal::new(ErrorKind::Unsupported, message));
            }
            Err(e) => {
                let Some(opened) = self.devices.opened.get_mut(at) else {
                    return Ok(());
                };
                let Some(nic) = &opened.nic else {
                    return Ok(());
                };
                let wire = nic.wire(receive, header, &e.to_string())?;
                opened.keep = wire.keep;
                (wire.lanes, wire.about)
            }
        };
        let queues = self.devices.opened.get(at).map_or(0, |o| o.queues);
        let mut lanes = lanes.into_iter().enumerate().take(queues);
        if let Err(e) = lanes.try_for_each(|(i, lane)| self.start_opened(at, i, lane)) {
            self.stop_lanes(at);
            self.unwire(at);
            return Err(e);
        }
        if let Some(opened) = self.devices.opened.get_mut(at) {
            opened.wire = wanted;
            opened.wired.clone_from(&opened.lanes);
            tracing::info!(port = opened.name, device = about, "takes frames");
            opened.about = about;
        }
        Ok(())
    }

    /// Closes an interface's wire, whose lanes have been stopped. First the
    /// program goes, so that no more is received, then the sockets, and then
    /// the buffers come back, once nobody has them any more.
    pub(super) fn unwire(&mut self, at: usize) {
        let Some(opened) = self.devices.opened.get_mut(at) else {
            return;
        };
        opened.wire = None;
        opened.generic = false;
        opened.keep = Keep::default();
        opened.drivers.clear();
        let sockets = std::mem::take(&mut opened.sockets);
        if sockets.is_empty() {
            return;
        }
        let closing = Closing::new(opened, sockets);
        self.close_sockets(closing);
    }

    fn wire_by_xdp(
        &mut self,
        at: usize,
        receive: bool,
        host: bool,
    ) -> Result<(Vec<Box<dyn DeviceLane>>, String), Fault> {
        let lost = || Fault::Other("no interface".into());
        let opened = self.devices.opened.get(at).ok_or_else(lost)?;
        let rings = opened.inward_rings();
        let nic = opened.nic.as_ref().ok_or_else(lost)?;
        nic.is_all_heard().map_err(Fault::Other)?;
        // Before the sockets: once they are open, others would have to wait.
        let mut want = Sockets::stock(u32::try_from(rings.len()).unwrap_or(1));
        let mut stocks = Vec::new();
        let mut enough = false;
        while want >= Sockets::LEAST_STOCK && !enough {
            self.give_back(&mut stocks);
            let take = |&ring| (ring, self.domain.take_stock(ring, want));
            stocks = rings.iter().map(take).collect();
            enough = stocks.iter().all(|(_, s)| s.len() >= want as usize);
            want /= 2;
        }
        let done = self.open_sockets(at, enough, &mut stocks, receive, host);
        // Those that no socket had.
        self.give_back(&mut stocks);
        done
    }

    fn give_back(&mut self, stocks: &mut Vec<(KringId, Vec<u32>)>) {
        for (ring, stock) in stocks.drain(..) {
            self.domain.give_back(ring, &stock);
        }
    }

    /// The lanes, and a text. Takes the stocks that they use.
    fn open_sockets(
        &mut self,
        at: usize,
        enough: bool,
        stocks: &mut [(KringId, Vec<u32>)],
        receive: bool,
        host: bool,
    ) -> Result<(Vec<Box<dyn DeviceLane>>, String), Fault> {
        let lost = || Fault::Other("no interface".into());
        let opened = self.devices.opened.get(at).ok_or_else(lost)?;
        let arena = self.arena_of(opened).and_then(|arena| match enough {
            true => Ok(arena),
            false => Err("other devices have the region's part for devices".into()),
        });
        let nic = opened.nic.as_ref().ok_or_else(lost)?;
        let region = self.domain.region(opened.reg.region, opened.reg.region_gen);
        let ring = region.ok_or_else(lost)?.0.geom.buf_size;
        let sockets = nic.sockets_in(arena, ring)?;
        let (direct, mut about) = (sockets.is_zero_copy(), nic.about(&sockets));
        let in_place = sockets.is_in_place();
        let generic = opened.may_be_generic(host);
        let rings = opened.inward_rings();
        let stock = |ring, _| {
            let found = stocks.iter_mut().find(|(r, _)| *r == ring);
            found.map(|(_, s)| std::mem::take(s)).unwrap_or_default()
        };
        let serve = || {
            let (lanes, hand_overs) = sockets.serve(&rings, stock)?;
            let redirect = |receive: bool| match receive {
                true => nic.redirect(&hand_overs, generic).map(Some),
                false => Ok(None),
            };
            redirect(receive).map(|redirect| (lanes, hand_overs, redirect))
        };
        let (lanes, hand_overs, redirect) = match serve() {
            Ok(all) => all,
            Err(why) => {
                if in_place {
                    // The device may have begun to use some of them.
                    stocks.iter_mut().for_each(|(_, s)| s.clear());
                    self.take_stocks_back(&rings, direct);
                }
                return Err(Fault::Other(why));
            }
        };
        let opened = self.devices.opened.get_mut(at).ok_or_else(lost)?;
        opened.sockets = hand_overs;
        if let Some((keep, mode)) = redirect {
            (opened.keep, opened.generic) = (keep, mode == XdpMode::Generic);
        }
        if opened.generic {
            about.push_str(NO_XDP);
        }
        let lanes = lanes.into_iter();
        let lanes = lanes.map(|lane| Box::new(lane) as Box<dyn DeviceLane>);
        Ok((lanes.collect(), about))
    }
}
