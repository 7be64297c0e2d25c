// A DTLS 1.2 PSK client on pion, the library of the Go program, that sends what
// it is given and prints what comes back.
//
// usage: pion_client PORT KEY IDENTITY SUITE TEXT     (SUITE in hexadecimal)
package main

import (
	"context"
	"log"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/pion/dtls/v2"
)

func main() {
	port, err := strconv.Atoi(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	suite, err := strconv.ParseUint(os.Args[4], 16, 16)
	if err != nil {
		log.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	conn, err := dtls.DialWithContext(ctx, "udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}, &dtls.Config{
		PSK:             func([]byte) ([]byte, error) { return []byte(os.Args[2]), nil },
		PSKIdentityHint: []byte(os.Args[3]),
		CipherSuites:    []dtls.CipherSuiteID{dtls.CipherSuiteID(suite)},
	})
	if err != nil {
		log.Fatal(err)
	}

	if _, err := conn.Write([]byte(os.Args[5])); err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 2048)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		os.Stdout.Write(buf[:n])
	}
}
