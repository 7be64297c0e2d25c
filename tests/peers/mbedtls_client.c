/* A DTLS 1.2 PSK client on mbedTLS that sends what it is given and prints what
 * comes back.
 *
 * usage: mbedtls_client PORT KEY IDENTITY SUITE TEXT
 *        (SUITE in hexadecimal)
 */
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/error.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <mbedtls/timing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(const char *what, int status)
{
	if (status < 0) {
		char text[128];
		mbedtls_strerror(status, text, sizeof text);
		fprintf(stderr, "failed to %s: %s\n", what, text);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	if (argc != 6) {
		fprintf(stderr, "usage: mbedtls_client PORT KEY IDENTITY SUITE TEXT\n");
		return 2;
	}
	const char *port = argv[1], *key = argv[2], *identity = argv[3], *text = argv[5];
	int suites[] = {(int)strtol(argv[4], NULL, 16), 0};

	mbedtls_net_context net;
	mbedtls_entropy_context entropy;
	mbedtls_ctr_drbg_context random;
	mbedtls_ssl_context ssl;
	mbedtls_ssl_config config;
	mbedtls_timing_delay_context timer;
	mbedtls_net_init(&net);
	mbedtls_entropy_init(&entropy);
	mbedtls_ctr_drbg_init(&random);
	mbedtls_ssl_init(&ssl);
	mbedtls_ssl_config_init(&config);

	check("seed", mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0));
	check("configure", mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_CLIENT,
						       MBEDTLS_SSL_TRANSPORT_DATAGRAM,
						       MBEDTLS_SSL_PRESET_DEFAULT));
	mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random);
	mbedtls_ssl_conf_read_timeout(&config, 10000);
	mbedtls_ssl_conf_ciphersuites(&config, suites);
	check("set the key", mbedtls_ssl_conf_psk(&config, (const unsigned char *)key, strlen(key),
						  (const unsigned char *)identity,
						  strlen(identity)));
	check("set up", mbedtls_ssl_setup(&ssl, &config));

	check("connect", mbedtls_net_connect(&net, "127.0.0.1", port, MBEDTLS_NET_PROTO_UDP));
	mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, NULL, mbedtls_net_recv_timeout);
	mbedtls_ssl_set_timer_cb(&ssl, &timer, mbedtls_timing_set_delay, mbedtls_timing_get_delay);

	int status;
	do
		status = mbedtls_ssl_handshake(&ssl);
	while (status == MBEDTLS_ERR_SSL_WANT_READ || status == MBEDTLS_ERR_SSL_WANT_WRITE);
	check("shake hands", status);
	fprintf(stderr, "suite %s\n", mbedtls_ssl_get_ciphersuite(&ssl));

	check("write", mbedtls_ssl_write(&ssl, (const unsigned char *)text, strlen(text)));
	unsigned char buffer[2048];
	int length = mbedtls_ssl_read(&ssl, buffer, sizeof buffer);
	check("read", length);
	printf("%.*s\n", length, (const char *)buffer);
	fflush(stdout);

	mbedtls_ssl_close_notify(&ssl);
	return 0;
}
