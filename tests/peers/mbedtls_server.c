/* A DTLS 1.2 PSK server on mbedTLS that echoes every record.
 *
 * usage: mbedtls_server PORT KEY SUITE     (KEY as text; any identity is taken)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <mbedtls/ssl_cookie.h>
#include <mbedtls/timing.h>

static const char *key;

static void check(int ret, const char *what)
{
    if (ret < 0) {
        fprintf(stderr, "%s: -0x%04x\n", what, (unsigned)-ret);
        exit(1);
    }
}

static int any_identity(void *unused, mbedtls_ssl_context *ssl,
                        const unsigned char *identity, size_t len)
{
    (void)unused;
    fprintf(stderr, "identity %.*s\n", (int)len, (const char *)identity);
    return mbedtls_ssl_set_hs_psk(ssl, (const unsigned char *)key, strlen(key));
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    key = argv[2];

    int suites[2] = {mbedtls_ssl_get_ciphersuite_id(argv[3]), 0};
    if (suites[0] == 0) {
        fprintf(stderr, "unknown suite %s\n", argv[3]);
        return 2;
    }

    mbedtls_entropy_context entropy;
    mbedtls_ctr_drbg_context drbg;
    mbedtls_ssl_config conf;
    mbedtls_ssl_cookie_ctx cookies;
    mbedtls_ssl_context ssl;
    mbedtls_timing_delay_context timer;
    mbedtls_net_context listener, peer;

    mbedtls_entropy_init(&entropy);
    mbedtls_ctr_drbg_init(&drbg);
    mbedtls_ssl_config_init(&conf);
    mbedtls_ssl_cookie_init(&cookies);
    mbedtls_ssl_init(&ssl);
    mbedtls_net_init(&listener);
    mbedtls_net_init(&peer);

    check(mbedtls_ctr_drbg_seed(&drbg, mbedtls_entropy_func, &entropy, NULL, 0), "seed");
    check(mbedtls_ssl_config_defaults(&conf, MBEDTLS_SSL_IS_SERVER,
                                      MBEDTLS_SSL_TRANSPORT_DATAGRAM,
                                      MBEDTLS_SSL_PRESET_DEFAULT), "defaults");
    mbedtls_ssl_conf_rng(&conf, mbedtls_ctr_drbg_random, &drbg);
    mbedtls_ssl_conf_ciphersuites(&conf, suites);
    mbedtls_ssl_conf_psk_cb(&conf, any_identity, NULL);
    check(mbedtls_ssl_cookie_setup(&cookies, mbedtls_ctr_drbg_random, &drbg), "cookies");
    mbedtls_ssl_conf_dtls_cookies(&conf, mbedtls_ssl_cookie_write,
                                  mbedtls_ssl_cookie_check, &cookies);
    check(mbedtls_ssl_setup(&ssl, &conf), "setup");
    mbedtls_ssl_set_timer_cb(&ssl, &timer, mbedtls_timing_set_delay,
                             mbedtls_timing_get_delay);

    check(mbedtls_net_bind(&listener, "127.0.0.1", argv[1], MBEDTLS_NET_PROTO_UDP), "bind");

    for (;;) {
        unsigned char address[16], buf[2048];
        size_t address_len;

        mbedtls_net_free(&peer);
        mbedtls_ssl_session_reset(&ssl);
        check(mbedtls_net_accept(&listener, &peer, address, sizeof address, &address_len),
              "accept");
        check(mbedtls_ssl_set_client_transport_id(&ssl, address, address_len), "transport id");
        mbedtls_ssl_set_bio(&ssl, &peer, mbedtls_net_send, mbedtls_net_recv,
                            mbedtls_net_recv_timeout);

        int ret;
        do
            ret = mbedtls_ssl_handshake(&ssl);
        while (ret == MBEDTLS_ERR_SSL_WANT_READ || ret == MBEDTLS_ERR_SSL_WANT_WRITE);
        if (ret != 0) {
            fprintf(stderr, "handshake: -0x%04x\n", (unsigned)-ret);
            continue; /* HelloVerifyRequest ends here too. */
        }

        for (;;) {
            ret = mbedtls_ssl_read(&ssl, buf, sizeof buf);
            if (ret == MBEDTLS_ERR_SSL_WANT_READ || ret == MBEDTLS_ERR_SSL_TIMEOUT)
                continue;
            if (ret <= 0)
                break;
            mbedtls_ssl_write(&ssl, buf, (size_t)ret);
        }
    }
}
