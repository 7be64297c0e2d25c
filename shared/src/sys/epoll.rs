//! `epoll` and `eventfd`.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use super::check;

/// A set of descriptors to wait for; any number of threads may wait at once.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: `epoll_create1` takes flags and touches no memory.
        let raw = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call above made this descriptor, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(raw) }))
    }

    /// Adds a descriptor, which must be removed before it is closed: a copy
    /// of it elsewhere would keep its events coming.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, Some(event(token, interest)))
    }

    /// Changes what a descriptor is waited for, and arms it again after an
    /// event of [`Interest::once`]: what is ready already comes at once.
    pub(crate) fn rearm(
        &self,
        fd: BorrowedFd<'_>,
        token: u64,
        interest: Interest,
    ) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, Some(event(token, interest)))
    }

    /// Takes a descriptor out; an event that a thread has already got stands.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, None)
    }

    /// Waits for events and puts them at the start of `events`; 0 of them
    /// after `timeout`, rounded up to milliseconds, or after a signal. `None`
    /// waits for ever.
    pub(crate) fn wait(
        &self,
        events: &mut [Event],
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        let room = libc::c_int::try_from(events.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: `Event` is transparent over `epoll_event`, and the kernel
        // writes at most `room` of them.
        let returned = check(unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr().cast(),
                room,
                milliseconds(timeout),
            )
        });

        match returned {
            Ok(count) => Ok(count as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: BorrowedFd<'_>,
        event: Option<libc::epoll_event>,
    ) -> io::Result<()> {
        let mut event = event;
        let event = event
            .as_mut()
            .map_or(ptr::null_mut(), |event| &raw mut *event);
        // SAFETY: `event` is null or points to a live event; null is what
        // `EPOLL_CTL_DEL` takes.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd.as_raw_fd(), event) })?;

        Ok(())
    }
}

/// What to wait for; an error or a hangup always comes too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interest(libc::c_int);

impl Interest {
    #[cfg(test)]
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const READ: Self = Self(libc::EPOLLIN);
    pub(crate) const WRITE: Self = Self(libc::EPOLLOUT);

    /// One event to one thread, then nothing, not even an error, until
    /// [`Epoll::rearm`].
    pub(crate) const fn once(self) -> Self {
        Self(self.0 | libc::EPOLLONESHOT)
    }
}

/// One descriptor that is ready.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Event(libc::epoll_event);

impl Event {
    /// Room for one event.
    pub(crate) const EMPTY: Self = Self(libc::epoll_event { events: 0, u64: 0 });

    pub(crate) fn token(self) -> u64 {
        self.0.u64
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("token", &self.token())
            .finish_non_exhaustive()
    }
}

/// A flag that wakes whoever waits for it to become readable.
#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: `eventfd` takes integers and touches no memory.
        let raw = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the call above made this descriptor, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(raw) }))
    }

    /// Raises the flag.
    pub(crate) fn signal(&self) -> io::Result<()> {
        let one = 1_u64;
        // SAFETY: the pointer and the length describe `one`.
        let written = unsafe {
            libc::write(
                self.0.as_raw_fd(),
                (&raw const one).cast(),
                size_of_val(&one),
            )
        };
        if written < 0 {
            return Err(io::Error::last_os_error());
        }

        Ok(())
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn event(token: u64, interest: Interest) -> libc::epoll_event {
    libc::epoll_event {
        events: interest.0 as u32,
        u64: token,
    }
}

fn milliseconds(timeout: Option<Duration>) -> libc::c_int {
    let Some(timeout) = timeout else {
        return -1;
    };

    libc::c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Option<Duration> = Some(Duration::ZERO);

    #[test]
    fn an_event_of_once_comes_again_only_after_it_is_armed_again() {
        let (epoll, flag) = (Epoll::new().unwrap(), EventFd::new().unwrap());
        epoll
            .add(flag.as_fd(), 1 << 40, Interest::READ.once())
            .unwrap();
        let mut events = [Event::EMPTY; 4];
        assert_eq!(epoll.wait(&mut events, NOW).unwrap(), 0);

        flag.signal().unwrap();

        assert_eq!(epoll.wait(&mut events, None).unwrap(), 1);
        assert_eq!(events[0].token(), 1 << 40);
        assert_eq!(epoll.wait(&mut events, NOW).unwrap(), 0);

        epoll
            .rearm(flag.as_fd(), 2, Interest::WRITE.once())
            .unwrap();
        assert_eq!(epoll.wait(&mut events, NOW).unwrap(), 1);
        assert_eq!(events[0].token(), 2);
    }

    #[test]
    fn a_removed_descriptor_wakes_nobody() {
        let (epoll, flag) = (Epoll::new().unwrap(), EventFd::new().unwrap());
        epoll.add(flag.as_fd(), 0, Interest::READ).unwrap();
        let mut events = [Event::EMPTY; 4];
        flag.signal().unwrap();
        flag.signal().unwrap();
        assert_eq!(epoll.wait(&mut events, NOW).unwrap(), 1);

        epoll.remove(flag.as_fd()).unwrap();
        assert_eq!(epoll.wait(&mut events, NOW).unwrap(), 0);
    }

    #[test]
    fn a_timeout_is_never_cut_to_nothing() {
        assert_eq!(milliseconds(None), -1);
        assert_eq!(milliseconds(NOW), 0);
        assert_eq!(milliseconds(Some(Duration::from_nanos(1))), 1);
        assert_eq!(milliseconds(Some(Duration::from_micros(1_001))), 2);
        assert_eq!(milliseconds(Some(Duration::MAX)), libc::c_int::MAX);
    }
}
