// A DTLS 1.2 PSK client on pion, the library of the Go program, that copies
// standard input to the connection and what it reads to standard output.
//
// usage: pion_client PORT KEY IDENTITY SUITE     (SUITE in hexadecimal)
package main

import (
	"context"
	"io"
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

	go func() {
		if _, err := io.Copy(conn, os.Stdin); err != nil {
			log.Print(err)
		}
		conn.Close()
	}()
	buf := make([]byte, 2048)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		os.Stdout.Write(buf[:n])
	}
}
