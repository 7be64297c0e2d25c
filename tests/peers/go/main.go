// A peer of dtun as programs in Go on pion/dtls are: TLS_PSK_WITH_AES_128_CCM_8
// alone, one read for the meta, and from then on every record goes to the TUN
// as it came. A write that fails ends the session.
//
// It stands for the program whose wire format dtun keeps, with the same limits:
// whatever kills this one would kill that one.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/pion/dtls/v2"
)

var (
	listen  = flag.String("listen", "0.0.0.0:443", "address of the hub")
	connect = flag.String("connect", "", "hub to dial")
	key     = flag.String("key", "", "pre-shared key")
	id      = flag.String("id", "dtun", "hint")
	peernet = flag.String("peernet", "empty", "network behind the spoke")
	up      = flag.String("up", "", "program to run when the tunnel is up")
	pool4   = flag.String("pool4", "10.0.0.0/24", "IPv4 pool of the hub")
	pool6   = flag.String("pool6", "fc00::/120", "IPv6 pool of the hub")
)

// Largest record that is read; a larger one is an error of the reader.
const bufferSize = 1500

// Pause of a spoke after a session or a dial that failed.
const pause = 5 * time.Second

type meta struct {
	Local4 string
	Peer4  string
	Local6 string
	Peer6  string
	Routes string
}

func main() {
	log.SetFlags(log.Lmicroseconds)
	flag.Parse()
	if *key == "" {
		log.Fatal("no -key")
	}
	if *connect == "" {
		hub()
	}
	for {
		log.Println("session over:", spoke())
		time.Sleep(pause)
	}
}

func config() *dtls.Config {
	return &dtls.Config{
		PSK:             func([]byte) ([]byte, error) { return []byte(*key), nil },
		PSKIdentityHint: []byte(*id),
		CipherSuites:    []dtls.CipherSuiteID{dtls.TLS_PSK_WITH_AES_128_CCM_8},
		MTU:             1480,
	}
}

// spoke runs one session and returns what ended it.
func spoke() error {
	address, err := net.ResolveUDPAddr("udp", *connect)
	if err != nil {
		log.Fatal(err)
	}
	conn, err := dtls.Dial("udp", address, config())
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}

	// A session whose meta is bad stays behind half used: it is not closed.
	m, err := readMeta(conn)
	if err != nil {
		return fmt.Errorf("meta: %w", err)
	}
	prefixes, err := parse(m.Local4, m.Peer4, m.Local6, m.Peer6)
	if err != nil {
		return fmt.Errorf("meta: %w", err)
	}
	local4, peer4, local6 := prefixes[0], prefixes[1], prefixes[2]

	tun, name := openTUN()
	defer tun.Close()
	ip("link", "set", name, "up", "mtu", "1280")
	ip("addr", "add", host(local4), "peer", peer4.Addr().String(), "dev", name)
	ip("addr", "add", local6.String(), "dev", name)

	if err := writeMeta(conn, meta{Routes: *peernet}); err != nil {
		return fmt.Errorf("meta: %w", err)
	}
	if *up != "" {
		hook := exec.Command(*up)
		hook.Env = []string{
			"TUN=" + name,
			"PEER_IP4=" + m.Peer4,
			"LOCAL_IP4=" + m.Local4,
			"PEER_IP6=" + m.Peer6,
			"LOCAL_IP6=" + m.Local6,
		}
		hook.Stdout, hook.Stderr = os.Stdout, os.Stderr
		if err := hook.Run(); err != nil {
			log.Fatal("up: ", err)
		}
	}
	log.Println("tunnel up", name, m.Local4, m.Local6)

	return carry(conn, tun)
}

// hub serves spokes for ever; their handshakes run one after another.
func hub() {
	address, err := net.ResolveUDPAddr("udp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := dtls.Listen("udp", address, config())
	if err != nil {
		log.Fatal(err)
	}
	log.Println("listening", address)

	pools, err := parse(*pool4, *pool6)
	if err != nil {
		log.Fatal(err)
	}
	own4, own6 := pools[0].Addr().Next(), pools[1].Addr().Next()
	next4, next6 := own4, own6
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Println("accept:", err)
			continue
		}
		next4, next6 = next4.Next(), next6.Next()
		lease4, lease6 := next4, next6
		tun, name := openTUN()
		ip("link", "set", name, "up", "mtu", "1280")
		ip("addr", "add", own4.String()+"/32", "peer", lease4.String(), "dev", name)
		ip("addr", "add", own6.String()+"/128", "peer", lease6.String(), "dev", name)
		bits4, bits6 := pools[0].Bits(), pools[1].Bits()
		m := meta{
			Local4: netip.PrefixFrom(lease4, bits4).String(),
			Peer4:  netip.PrefixFrom(own4, bits4).String(),
			Local6: netip.PrefixFrom(lease6, bits6).String(),
			Peer6:  netip.PrefixFrom(own6, bits6).String(),
		}
		go func() {
			log.Println("session over:", serve(conn, tun, m, lease4))
		}()
	}
}

// serve runs one session of the hub and returns what ended it.
func serve(conn net.Conn, tun *os.File, m meta, lease4 netip.Addr) error {
	if err := writeMeta(conn, m); err != nil {
		return fmt.Errorf("meta: %w", err)
	}
	answer, err := readMeta(conn)
	if err == nil {
		log.Println("routes", answer.Routes)
		_, _, err = net.ParseCIDR(answer.Routes)
	}
	if err != nil {
		// Only the route is missing then: the session goes on.
		log.Println("routes:", err)
	} else if out, err := exec.Command("ip", "route", "add", answer.Routes, "via", lease4.String()).CombinedOutput(); err != nil {
		log.Printf("route %s: %v %s", answer.Routes, err, out)
	}
	log.Println("session up", m.Local4)

	return carry(conn, tun)
}

// carry copies until one direction fails, then closes both ends.
func carry(conn net.Conn, tun *os.File) error {
	inward := make(chan error, 1)
	go func() {
		inward <- fmt.Errorf("to the TUN: %w", pump(tun, conn))
		tun.Close()
		conn.Close()
	}()
	outward := fmt.Errorf("from the TUN: %w", pump(conn, tun))
	tun.Close()
	conn.Close()

	return fmt.Errorf("%v; %v", <-inward, outward)
}

func pump(to io.Writer, from io.Reader) error {
	buffer := make([]byte, bufferSize)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return fmt.Errorf("write %x: %w", buffer[:n], err)
		}
	}
}

func readMeta(conn io.Reader) (meta, error) {
	var m meta
	buffer := make([]byte, bufferSize)
	n, err := conn.Read(buffer)
	if err != nil {
		return m, err
	}
	log.Printf("meta %s", buffer[:n])

	return m, json.Unmarshal(buffer[:n], &m)
}

func writeMeta(conn io.Writer, m meta) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = conn.Write(text)

	return err
}

func parse(texts ...string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		prefixes = append(prefixes, prefix)
	}

	return prefixes, nil
}

func host(prefix netip.Prefix) string {
	return netip.PrefixFrom(prefix.Addr(), prefix.Addr().BitLen()).String()
}

func ip(args ...string) {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		log.Fatalf("ip %s: %v %s", strings.Join(args, " "), err, out)
	}
}

// openTUN makes a device without packet information; it goes with the file.
func openTUN() (*os.File, string) {
	fd, err := syscall.Open("/dev/net/tun", syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		log.Fatal("/dev/net/tun: ", err)
	}
	var request struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}
	request.flags = syscall.IFF_TUN | syscall.IFF_NO_PI
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TUNSETIFF, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		log.Fatal("TUNSETIFF: ", errno)
	}
	name := strings.TrimRight(string(request.name[:]), "\x00")

	// Non-blocking, so that Close wakes a Read.
	return os.NewFile(uintptr(fd), "/dev/net/tun"), name
}
