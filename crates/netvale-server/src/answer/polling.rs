//! Devices whose threads never sleep.

use netvale_wire::abi::NM_BDG_NAME;
use netvale_wire::proto::ErrorKind;

use super::Core;
use crate::listing::Refusal;
use crate::pump::Pump;

/// What netmap's requests say about polling.
#[derive(Debug, Clone, Copy)]
pub(super) struct Polling {
    pub(super) on: bool,
    /// 1: one thread; 2: one for each ring.
    pub(super) mode: u32,
    pub(super) first_cpu: u32,
    pub(super) cpus: u32,
}

impl Polling {
    /// The processors, if that is possible with so many rings.
    fn cpus(self, rings: usize) -> Result<Vec<usize>, Refusal> {
        const SINGLE: u32 = 1;
        const MULTI: u32 = 2;
        let wrong = |why: &str| Err(Refusal::new(ErrorKind::Invalid, why));
        let (first, n) = (self.first_cpu as usize, self.cpus as usize);
        let there = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if n == 0 || first.saturating_add(n) > there {
            return wrong("no such processors");
        }
        match self.mode {
            SINGLE if n == 1 => Ok(vec![first]),
            SINGLE => wrong("one thread needs one processor"),
            MULTI if first + n <= rings => Ok((first..first + n).collect()),
            MULTI => wrong("there are fewer rings than processors"),
            _ => wrong("polling is by one thread (1) or by one for each ring (2)"),
        }
    }
}

impl Core {
    /// Has the threads of an attached interface look all the time, or not.
    pub(super) fn poll_device(&mut self, name: &str, ask: Polling) -> Result<(), Refusal> {
        if !name.starts_with(NM_BDG_NAME) {
            let message = format!("{name} is no port of a switch");
            return Err(Refusal::new(ErrorKind::Invalid, message));
        }
        let Some(used) = self.devices.used.get(name) else {
            let message = format!("{name} is no attached interface");
            return Err(Refusal::new(ErrorKind::Unsupported, message));
        };
        if used.polled == ask.on {
            let how = if ask.on { "already" } else { "not" };
            let message = format!("{name} is {how} polled");
            return Err(Refusal::new(ErrorKind::Fault, message));
        }
        if !ask.on {
            return self.stop_polling(name);
        }
        let rings = used.ports.first().map_or(0, |p| p.lanes.len());
        let cpus = ask.cpus(rings)?;
        self.start_polling(name, &cpus)
    }

    fn start_polling(&mut self, name: &str, cpus: &[usize]) -> Result<(), Refusal> {
        let pumps = self.own_pumps(cpus)?;
        pumps.iter().for_each(|p| p.spin(true));
        self.move_lanes(name, pumps, true);
        Ok(())
    }

    fn stop_polling(&mut self, name: &str) -> Result<(), Refusal> {
        self.hire_pumps()?;
        self.move_lanes(name, Vec::new(), false);
        Ok(())
    }

    /// Gives the lanes of a device to other threads.
    fn move_lanes(&mut self, name: &str, own: Vec<Pump>, polled: bool) {
        let Some(used) = self.devices.used.get_mut(name) else {
            return;
        };
        let mut before = std::mem::replace(&mut used.own, own);
        used.polled = polled;
        let mut i = 0;
        for id in used.ports.iter().flat_map(|p| &p.lanes) {
            let mut all = before.iter_mut().chain(&mut self.devices.pumps);
            let Some(lane) = all.find_map(|p| p.take(*id)) else {
                continue;
            };
            let n = used.own.len().max(1);
            let mut common = self.devices.pumps.iter_mut();
            let pump = match used.own.get_mut(i % n) {
                Some(own) => Some(own),
                None => common.by_ref().min_by_key(|p| p.lanes()),
            };
            if let Some(pump) = pump {
                pump.add(lane);
            }
            i += 1;
        }
        before.into_iter().for_each(|p| self.dismiss(p));
    }
}
