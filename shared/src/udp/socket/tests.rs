use super::*;
use crate::netns::isolated;

#[test]
fn a_taken_port_is_an_error_even_for_a_group() {
    isolated(|_| async {
        let group = UdpSocket::listen_group("[::]:443".parse().unwrap(), 3).unwrap();
        assert_eq!(group.len(), 3);

        let second = UdpSocket::listen_group("[::]:443".parse().unwrap(), 3).unwrap_err();

        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    });
}
