// A DTLS 1.2 PSK server on pion, the library of the Go program, that echoes
// every record. It greets each client with one record, as the Go hub does with
// its meta.
//
// usage: pion_server PORT KEY SUITE     (SUITE in hexadecimal; any identity is taken)
package main

import (
	"log"
	"net"
	"os"
	"strconv"

	"github.com/pion/dtls/v2"
)

func main() {
	port, err := strconv.Atoi(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	key := []byte(os.Args[2])
	suite, err := strconv.ParseUint(os.Args[3], 16, 16)
	if err != nil {
		log.Fatal(err)
	}

	listener, err := dtls.Listen("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}, &dtls.Config{
		PSK: func(hint []byte) ([]byte, error) {
			log.Printf("identity %s", hint)
			return key, nil
		},
		CipherSuites: []dtls.CipherSuiteID{dtls.CipherSuiteID(suite)},
	})
	if err != nil {
		log.Fatal(err)
	}

	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Print(err)
			continue
		}
		go serve(conn)
	}
}

func serve(conn net.Conn) {
	defer conn.Close()

	if _, err := conn.Write([]byte("hello")); err != nil {
		log.Print(err)
		return
	}
	buf := make([]byte, 2048)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			log.Print(err)
			return
		}
		if _, err := conn.Write(buf[:n]); err != nil {
			log.Print(err)
			return
		}
	}
}
