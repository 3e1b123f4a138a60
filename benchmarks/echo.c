/* The limit: a WebSocket echo server in C, with one thread and epoll.

       echo PORT

   A message to /echo comes back, one to /broadcast goes to every connection there. It does
   what a server must for that and no more: no UTF-8 check, no fragments, no limits, no timeouts.
   Do not run it anywhere but here.
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <malloc.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_DESCRIPTORS 65536
#define LARGE 16384  /* bytes that cost more to copy than a system call does */

struct buffer {
    uint8_t *data;
    size_t length, capacity;
};

struct connection {
    int fd;
    bool open, broadcast, publishing, ending, dead, writable_wanted;
    struct buffer in, out;  /* what is incomplete, and what the system did not take */
};

static int epoll;
static struct connection *receivers[MAX_DESCRIPTORS];
static int receiver_count;

/* ---- Buffers: empty ones hold no memory, as most connections are idle ---- */

static void append(struct buffer *buffer, const void *data, size_t length)
{
    if (buffer->length + length > buffer->capacity) {
        buffer->capacity = 2 * (buffer->length + length);
        buffer->data = realloc(buffer->data, buffer->capacity);
        if (!buffer->data)
            abort();
    }
    memcpy(buffer->data + buffer->length, data, length);
    buffer->length += length;
}

static void drop(struct buffer *buffer, size_t length)
{
    buffer->length -= length;
    if (buffer->length > 0) {
        memmove(buffer->data, buffer->data + length, buffer->length);
    } else {
        free(buffer->data);
        *buffer = (struct buffer){0};
    }
}

/* ---- SHA-1 and base64 of the handshake (RFC 3174, RFC 4648) ---- */

static uint32_t rotate(uint32_t word, int bits) { return word << bits | word >> (32 - bits); }

static void sha1_block(uint32_t h[5], const uint8_t *block)
{
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (int i = 16; i < 80; i++)
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20   ? ((b & c) | (~b & d)) + 0x5a827999
                     : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1
                     : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc
                              : (b ^ c ^ d) + 0xca62c1d6;
        uint32_t next = rotate(a, 5) + f + e + w[i];
        e = d, d = c, c = rotate(b, 30), b = a, a = next;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
}

/* The key and the GUID are 60 bytes: with the padding, two blocks. */
static void sha1_of_60(const uint8_t text[60], uint8_t digest[20])
{
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t padded[128] = {0};
    memcpy(padded, text, 60);
    padded[60] = 0x80;
    padded[126] = 60 * 8 >> 8;
    padded[127] = 60 * 8 & 0xff;
    sha1_block(h, padded);
    sha1_block(h, padded + 64);
    for (int i = 0; i < 20; i++)
        digest[i] = h[i / 4] >> (24 - 8 * (i % 4));
}

static void base64_of_20(const uint8_t digest[20], char out[29])
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 7; i++) {
        uint32_t three = digest[3 * i] << 16 | digest[3 * i + 1] << 8 |
                         (i < 6 ? digest[3 * i + 2] : 0);
        for (int j = 0; j < 4; j++)
            out[4 * i + j] = letters[three >> (18 - 6 * j) & 63];
    }
    out[27] = '=';
    out[28] = 0;
}

/* ---- Sending ---- */

static void watch(struct connection *c, bool writable, int operation)
{
    struct epoll_event event = {EPOLLIN | (writable ? EPOLLOUT : 0), {.ptr = c}};
    c->writable_wanted = writable;
    epoll_ctl(epoll, operation, c->fd, &event);
}

static void flush(struct connection *c)
{
    if (c->out.length > 0) {
        ssize_t sent = send(c->fd, c->out.data, c->out.length, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            c->dead = true;
        else if (sent > 0)
            drop(&c->out, sent);
    }
    if (c->writable_wanted != (c->out.length > 0))
        watch(c, c->out.length > 0, EPOLL_CTL_MOD);
}

/* Send what the system takes now, if all before it is gone: a copy less. */
static size_t send_at_once(struct connection *c, const uint8_t *data, size_t length)
{
    flush(c);
    if (c->dead || c->out.length > 0)
        return 0;
    ssize_t sent = send(c->fd, data, length, MSG_NOSIGNAL);
    return sent < 0 ? 0 : sent;
}

static void put_frame(struct connection *c, int first_byte, const uint8_t *data, size_t length)
{
    uint8_t header[10] = {first_byte};
    int bytes_of_length = length < 126 ? 0 : length < 65536 ? 2 : 8;
    header[1] = bytes_of_length == 0 ? length : bytes_of_length == 2 ? 126 : 127;
    for (int i = 0; i < bytes_of_length; i++)
        header[2 + i] = (uint64_t)length >> 8 * (bytes_of_length - 1 - i);
    append(&c->out, header, 2 + bytes_of_length);
    size_t sent = length < LARGE ? 0 : send_at_once(c, data, length);
    append(&c->out, data + sent, length - sent);
}

static void answer(struct connection *c, int first_byte, const uint8_t *data, size_t length)
{
    int opcode = first_byte & 0x0f;
    if (opcode == 8) {
        put_frame(c, 0x88, data, length);
        c->ending = true;
    } else if (opcode == 9) {
        put_frame(c, 0x8a, data, length);
    } else if (opcode != 10 && c->broadcast) {
        c->publishing = true;
        for (int i = 0; i < receiver_count; i++)
            put_frame(receivers[i], first_byte, data, length);
    } else if (opcode != 10) {
        put_frame(c, first_byte, data, length);
    }
}

/* ---- Receiving ---- */

/* Answer a request that is whole. Returns its length, or 0. */
static size_t take_request(struct connection *c, const uint8_t *data, size_t length)
{
    static const char name[] = "Sec-WebSocket-Key: ";
    uint8_t text[60], digest[20];
    char accept[29], response[256];
    const uint8_t *end = memmem(data, length, "\r\n\r\n", 4);
    if (!end)
        return 0;
    const uint8_t *key = memmem(data, end - data, name, sizeof name - 1);
    if (!key || end - key < (ssize_t)sizeof name - 1 + 24) {
        c->dead = true;
        return 0;
    }
    memcpy(text, key + sizeof name - 1, 24);
    memcpy(text + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    sha1_of_60(text, digest);
    base64_of_20(digest, accept);
    int size = sprintf(response,
                       "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                       "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    append(&c->out, response, size);
    c->open = true;
    c->broadcast = memmem(data, end - data, "GET /broadcast ", 15);
    if (c->broadcast)
        receivers[receiver_count++] = c;
    return end + 4 - data;
}

/* Eight bytes at a time, which the compiler makes wider still. */
static void unmask(uint8_t *payload, size_t size, const uint8_t *mask)
{
    uint64_t twice, word;
    size_t i = 0;
    memcpy(&twice, mask, 4);
    memcpy((uint8_t *)&twice + 4, mask, 4);
    for (; i + 8 <= size; i += 8) {
        memcpy(&word, payload + i, 8);
        word ^= twice;
        memcpy(payload + i, &word, 8);
    }
    for (; i < size; i++)
        payload[i] ^= mask[i & 3];
}

/* Answer one frame that is whole, and unmask it in place. Returns its length, or 0. */
static size_t take_frame(struct connection *c, uint8_t *data, size_t length)
{
    if (length < 2)
        return 0;
    uint64_t size = data[1] & 0x7f;
    int bytes_of_length = size == 126 ? 2 : size == 127 ? 8 : 0;
    size_t header = 2 + bytes_of_length + 4;
    if (length < header)
        return 0;
    if (bytes_of_length > 0)
        size = 0;
    for (int i = 0; i < bytes_of_length; i++)
        size = size << 8 | data[2 + i];
    if (length - header < size)
        return 0;
    uint8_t *payload = data + header;
    unmask(payload, size, payload - 4);
    answer(c, data[0], payload, size);
    return header + size;
}

static size_t take(struct connection *c, uint8_t *data, size_t length)
{
    size_t taken = c->open ? 0 : take_request(c, data, length);
    while (c->open && !c->ending && !c->dead) {
        size_t frame = take_frame(c, data + taken, length - taken);
        if (frame == 0)
            break;
        taken += frame;
    }
    return taken;
}

static void receive(struct connection *c)
{
    static uint8_t fresh[1 << 18];
    ssize_t length = recv(c->fd, fresh, sizeof fresh, 0);
    if (length <= 0) {
        c->dead = length == 0 || errno != EAGAIN;
    } else if (c->in.length > 0) {
        append(&c->in, fresh, length);
        drop(&c->in, take(c, c->in.data, c->in.length));
    } else {
        size_t taken = take(c, fresh, length);
        if (taken < (size_t)length)
            append(&c->in, fresh + taken, length - taken);
    }
}

/* ---- Connections ---- */

static void accept_all(int listener)
{
    int fd, yes = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c || fd >= MAX_DESCRIPTORS)
            abort();
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        watch(c, false, EPOLL_CTL_ADD);
    }
}

static void forget(struct connection *c)
{
    for (int i = 0; c->broadcast && i < receiver_count; i++)
        if (receivers[i] == c)
            receivers[i] = receivers[--receiver_count];
    close(c->fd);
    free(c->in.data);
    free(c->out.data);
    free(c);
}

static void handle(struct connection *c, uint32_t events)
{
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(c);
    if (!c->dead)
        flush(c);
    /* Broadcasts that came together leave together. */
    for (int i = 0; c->publishing && i < receiver_count; i++)
        if (!receivers[i]->dead)
            flush(receivers[i]);
    c->publishing = false;
    if (c->dead || (c->ending && c->out.length == 0))
        forget(c);
}

static int listen_on(int port)
{
    int yes = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 2048) < 0) {
        perror("listen");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: echo PORT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    /* Buffers come and go; memory that is given back to the system comes back slowly. */
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
    int listener = listen_on(atoi(argv[1]));
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {EPOLLIN, {.ptr = NULL}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                handle(events[i].data.ptr, events[i].events);
            else
                accept_all(listener);
        }
    }
}
