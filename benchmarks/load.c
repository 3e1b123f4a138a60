/* Load generator for WebSocket servers on loopback: one thread, epoll.

   It speaks as a browser does (masked frames, permessage-deflate as Chrome offers it) and
   compares every reply, byte by byte, with what must come back. The frames it sends are made
   once, before the clock starts. It prints one line of JSON; on a wrong reply, a refused
   handshake or a connection that ends it prints {"error": ...} and exits with 1.

       load --port 5000 --mode echo --connections 100 --window 16 --size 32

   --mode echo        each connection keeps --window messages in flight
   --mode broadcast   the first connection publishes, all of them receive; --window broadcasts
                      in flight, counted are deliveries
   --mode idle        one echo for each connection, then nothing until standard input ends
   --mode connect     each connection opens, echoes once, closes, and begins anew
   --socketio EVENT   speak Socket.IO 5: messages are this event's
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#define SECOND 1000000000ull
#define HEADER_SIZE 14      /* of the longest frame header */
#define MAX_WINDOW 64
#define DIFFERENT 64        /* messages with --deflate, so that no two in a row are alike */
#define OPENING_AT_ONCE 64  /* a listening queue is often no longer than 128 */
#define PATIENCE (20 * SECOND)

enum mode { ECHO, BROADCAST, IDLE, CONNECT };
enum opcode { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };

static const char *const mode_names[] = {"echo", "broadcast", "idle", "connect"};

static struct {
    int port, connections, window;
    enum mode mode;
    const char *path, *prefix, *event;
    size_t size;
    bool binary, deflate;
    double warmup, seconds;
} options = {
    .connections = 1, .window = 1, .path = "/", .prefix = "", .size = 32,
    .warmup = 0.3, .seconds = 1,
};

/* ---- Time, failures and the histogram ---- */

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * SECOND + time.tv_nsec;
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

__attribute__((noreturn, format(printf, 1, 2)))
static void fail(const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *c = text; *c; c++)
        if (*c < ' ' || *c > '~' || *c == '"' || *c == '\\')
            *c = ' ';  /* it may quote the server, and must be JSON */
    printf("{\"error\": \"%s\"}\n", text);
    exit(1);
}

static void *allocate(size_t size)
{
    void *memory = calloc(1, size);
    if (!memory)
        fail("no memory");
    return memory;
}

/* Latencies by their highest bit and the five bits below it: within 3 % of the truth. */
#define STEPS 32
static uint64_t histogram[64 * STEPS], measured;

static void record(uint64_t nanoseconds)
{
    unsigned slot = nanoseconds;
    if (nanoseconds >= STEPS) {
        int shift = 63 - __builtin_clzll(nanoseconds) - 5;
        slot = (shift + 1) * STEPS + ((nanoseconds >> shift) & (STEPS - 1));
    }
    histogram[slot]++;
    measured++;
}

static double percentile_us(double part)
{
    uint64_t wanted = part * measured, seen = 0;
    for (unsigned slot = 0; slot < 64 * STEPS; slot++) {
        seen += histogram[slot];
        if (seen <= wanted)
            continue;
        if (slot < STEPS)
            return slot / 1e3;
        int shift = slot / STEPS - 1;
        return ((STEPS + slot % STEPS + 0.5) * (1ull << shift)) / 1e3;
    }
    return 0;
}

/* ---- What is sent, and what must come back ---- */

struct bytes {
    uint8_t *data;
    size_t length;
};

struct reply {
    struct bytes payload;
    enum opcode opcode;
    bool last;  /* of its message: Socket.IO answers a binary message with two */
};

static struct bytes messages[DIFFERENT];
static struct reply replies[DIFFERENT];
static int message_count, reply_count;

static uint32_t random_number(void)
{
    static uint64_t state = 88172645463325252ull;  /* always the same messages */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state >> 32;
}

static size_t put_frame(uint8_t *out, int first_byte, const uint8_t *payload, size_t length)
{
    static const uint8_t mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    size_t at = 0;
    out[at++] = first_byte;
    int bytes_of_length = length < 126 ? 0 : length < 65536 ? 2 : 8;
    out[at++] = 0x80 | (bytes_of_length == 0 ? length : bytes_of_length == 2 ? 126 : 127);
    for (int i = bytes_of_length - 1; i >= 0; i--)
        out[at++] = (uint64_t)length >> (8 * i);
    memcpy(out + at, mask, 4);
    at += 4;
    for (size_t i = 0; i < length; i++)
        out[at + i] = payload[i] ^ mask[i & 3];
    return at + length;
}

static void expect(const void *payload, size_t length, enum opcode opcode, bool last)
{
    struct reply *reply = &replies[reply_count++];
    *reply = (struct reply){{allocate(length + 1), length}, opcode, last};
    memcpy(reply->payload.data, payload, length);
}

/* The payload of the plain workloads: the alphabet, or all values of a byte. */
static uint8_t *make_payload(void)
{
    uint8_t *payload = allocate(options.size + 1);
    for (size_t i = 0; i < options.size; i++)
        payload[i] = options.binary ? i * 7 + 13 : 'a' + i % 26;
    size_t prefix = strlen(options.prefix);
    memcpy(payload, options.prefix, prefix < options.size ? prefix : options.size);
    return payload;
}

static void prepare_plain(void)
{
    uint8_t *payload = make_payload();
    enum opcode opcode = options.binary ? BINARY : TEXT;
    uint8_t *frame = allocate(options.size + HEADER_SIZE);
    size_t length = put_frame(frame, 0x80 | opcode, payload, options.size);
    messages[message_count++] = (struct bytes){frame, length};
    expect(payload, options.size, opcode, true);
    free(payload);
}

static void prepare_socketio(void)
{
    uint8_t *payload = make_payload();
    char *packet = allocate(options.size + strlen(options.event) + 80);
    const char *format = options.binary ? "451-[\"%s\",{\"_placeholder\":true,\"num\":0}]"
                                        : "42[\"%s\",\"%s\"]";
    size_t length = sprintf(packet, format, options.event, (char *)payload);
    uint8_t *frames = allocate(length + options.size + 2 * HEADER_SIZE);
    size_t end = put_frame(frames, 0x80 | TEXT, (uint8_t *)packet, length);
    expect(packet, length, TEXT, !options.binary);
    if (options.binary) {
        end += put_frame(frames + end, 0x80 | BINARY, payload, options.size);
        expect(payload, options.size, BINARY, true);
    }
    messages[message_count++] = (struct bytes){frames, end};
    free(payload);
    free(packet);
}

/* JSON as applications send it: short objects, names that repeat, numbers that do not. */
static void make_json(char *out, size_t size)
{
    size_t at = sprintf(out, "{\"type\":\"update\",\"seq\":%u,\"items\":[", random_number() % 1000000);
    while (at + 100 < size)
        at += sprintf(out + at, "{\"id\":%u,\"name\":\"user%u\",\"x\":%u.%u,\"ok\":true},",
                      random_number() % 100000, random_number() % 1000, random_number() % 1000,
                      random_number() % 100);
    at += sprintf(out + at, "0],\"pad\":\"");
    while (at < size - 2)
        out[at++] = 'a' + random_number() % 26;
    memcpy(out + at, "\"}", 3);
}

/* Each message is compressed by itself, which any agreement allows: it refers to nothing
   before it, and 1 KiB is within a window of 10 bits or more. */
static void prepare_deflated(void)
{
    if (options.size < 256)
        fail("--deflate needs a --size of 256 or more");
    char *json = allocate(options.size + 1);
    while (message_count < DIFFERENT) {
        make_json(json, options.size);
        uint8_t *compressed = allocate(options.size + 256);
        z_stream stream = {0};
        deflateInit2(&stream, 6, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY);
        stream.next_in = (uint8_t *)json;
        stream.avail_in = options.size;
        stream.next_out = compressed;
        stream.avail_out = options.size + 256;
        deflate(&stream, Z_SYNC_FLUSH);
        size_t length = stream.total_out - 4;  /* RFC 7692, 7.2.1: without 00 00 FF FF */
        deflateEnd(&stream);
        uint8_t *frame = allocate(length + HEADER_SIZE);
        size_t end = put_frame(frame, 0xC0 | TEXT, compressed, length);
        messages[message_count++] = (struct bytes){frame, end};
        expect(json, options.size, TEXT, true);
        free(compressed);
    }
    free(json);
}

/* ---- Connections ---- */

enum state { CONNECTING, HANDSHAKE, JOINING, OPEN, CLOSING, GONE };

struct connection {
    int fd;
    enum state state;
    bool writable_wanted, deflate;
    /* The frame that is being read. */
    uint8_t header[HEADER_SIZE];
    int header_length;
    uint64_t frame_left;
    bool in_payload, final, compressed;
    enum opcode opcode;
    /* The message that is being read, and which reply it has to be. */
    enum opcode message_opcode;
    size_t message_length;
    bool aside;  /* it is Socket.IO's own and no reply */
    uint8_t aside_packet[2];
    int reply_index;
    z_stream *inflater;
    /* A control frame's payload, and control frames to be sent. */
    uint8_t control[125];
    int control_length;
    uint8_t urgent[512];
    int urgent_length;
    /* Messages to be sent: how many, which is next, how much of it is gone. */
    int to_send, message_index;
    size_t message_sent;
    /* When those in flight were sent, oldest first. */
    uint64_t sent_at[MAX_WINDOW];
    int oldest, in_flight;
    uint64_t received;  /* messages answered, or broadcasts delivered */
    uint64_t started;
};

static struct connection *connections;
static int epoll, opened;
static bool measuring, publishing, stdin_ended;
static uint64_t count, compressed_replies;

/* Broadcasts in flight: when each was sent, and how many have yet to get it. */
static struct { uint64_t sent_at; int missing; } broadcasts[MAX_WINDOW];
static uint64_t broadcasts_sent, broadcasts_done;

static void watch(struct connection *c, bool writable, int operation)
{
    struct epoll_event event = {EPOLLIN | (writable ? EPOLLOUT : 0), {.ptr = c}};
    c->writable_wanted = writable;
    if (epoll_ctl(epoll, operation, c->fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
}

static void want_writable(struct connection *c, bool wanted)
{
    if (c->writable_wanted != wanted)
        watch(c, wanted, EPOLL_CTL_MOD);
}

/* Loopback is all of 127/8. With one address the ports of those just closed would run out. */
static void bind_to_some_address(int fd)
{
    static uint32_t turn;
    int yes = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000100 + 1 + turn++ % 200)};
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("bind: %s", strerror(errno));
}

static void start(struct connection *c)
{
    z_stream *inflater = c->inflater;
    *c = (struct connection){.inflater = inflater, .started = now()};
    int yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(options.port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (options.mode == CONNECT)
        bind_to_some_address(c->fd);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    watch(c, true, EPOLL_CTL_ADD);
}

static void finish(struct connection *c)
{
    close(c->fd);
    c->state = GONE;
    if (measuring) {
        count++;
        record(now() - c->started);
    }
    start(c);
}

static void lost(struct connection *c)
{
    if (c->state == CLOSING)
        finish(c);
    else
        fail("the server ended a connection (%s) after %llu replies",
             errno ? strerror(errno) : "end of stream", (unsigned long long)c->received);
}

/* ---- Sending ---- */

static size_t gather(struct connection *c, struct iovec *parts, int *used)
{
    size_t total = 0, sent = c->message_sent;
    int index = c->message_index;
    for (*used = 0; *used < c->to_send && *used < MAX_WINDOW; ++*used) {
        struct bytes message = messages[index];
        parts[*used] = (struct iovec){message.data + sent, message.length - sent};
        total += message.length - sent;
        sent = 0;
        index = (index + 1) % message_count;
    }
    return total;
}

static void advance(struct connection *c, size_t written)
{
    while (written > 0) {
        size_t rest = messages[c->message_index].length - c->message_sent;
        if (written < rest) {
            c->message_sent += written;
            return;
        }
        written -= rest;
        c->message_sent = 0;
        c->message_index = (c->message_index + 1) % message_count;
        c->to_send--;
    }
}

static void flush(struct connection *c)
{
    struct iovec parts[MAX_WINDOW];
    while (c->urgent_length > 0 || c->to_send > 0) {
        ssize_t written;
        size_t total;
        /* A frame that has been begun is ended before another goes out. */
        bool urgent = c->urgent_length > 0 && c->message_sent == 0;
        if (urgent) {
            total = c->urgent_length;
            written = write(c->fd, c->urgent, total);
        } else {
            int used;
            total = gather(c, parts, &used);
            written = writev(c->fd, parts, used);
        }
        if (written < 0 && errno != EAGAIN) {
            lost(c);
            return;
        }
        if (written > 0 && urgent) {
            c->urgent_length -= written;
            memmove(c->urgent, c->urgent + written, c->urgent_length);
        } else if (written > 0) {
            advance(c, written);
        }
        if (written < (ssize_t)total) {
            want_writable(c, true);
            return;
        }
    }
    want_writable(c, false);
}

static void send_urgent(struct connection *c, int first_byte, const void *payload, size_t length)
{
    if (c->urgent_length + length + HEADER_SIZE > sizeof c->urgent)
        fail("the server pings and does not read");
    c->urgent_length += put_frame(c->urgent + c->urgent_length, first_byte, payload, length);
}

static void send_messages(struct connection *c, int n)
{
    uint64_t time = now();
    for (int i = 0; i < n; i++)
        c->sent_at[(c->oldest + c->in_flight++) % MAX_WINDOW] = time;
    c->to_send += n;
    flush(c);
}

static void publish(void)
{
    struct connection *publisher = &connections[0];
    uint64_t before = broadcasts_sent;
    for (; broadcasts_sent < broadcasts_done + options.window; broadcasts_sent++) {
        broadcasts[broadcasts_sent % MAX_WINDOW].sent_at = now();
        broadcasts[broadcasts_sent % MAX_WINDOW].missing = options.connections;
    }
    publisher->to_send += broadcasts_sent - before;
    if (broadcasts_sent > before)
        flush(publisher);
}

/* ---- A whole reply ---- */

static void take_delivery(struct connection *c, uint64_t time)
{
    uint64_t number = c->received++;
    if (number >= broadcasts_sent)
        fail("a broadcast came twice");
    count += measuring;
    if (--broadcasts[number % MAX_WINDOW].missing > 0)
        return;
    broadcasts_done++;
    if (measuring)
        record(time - broadcasts[number % MAX_WINDOW].sent_at);
}

static void take_reply(struct connection *c, uint64_t time)
{
    if (options.mode == BROADCAST) {
        take_delivery(c, time);
        return;
    }
    if (c->in_flight == 0)
        fail("a reply came twice");
    c->received++;
    if (measuring && options.mode == ECHO) {
        count++;
        record(time - c->sent_at[c->oldest]);
    }
    c->oldest = (c->oldest + 1) % MAX_WINDOW;
    c->in_flight--;
}

static void become_open(struct connection *c)
{
    c->state = OPEN;
    opened++;
    if (options.mode == CONNECT)
        send_messages(c, 1);
}

/* Engine.IO's open, Socket.IO's connect, and Engine.IO's pings. */
static void take_aside(struct connection *c)
{
    if (c->aside_packet[0] == '0')
        send_urgent(c, 0x80 | TEXT, "40", 2);
    else if (c->aside_packet[0] == '2')
        send_urgent(c, 0x80 | TEXT, "3", 1);
    else if (c->aside_packet[0] == '4' && c->aside_packet[1] == '0')
        become_open(c);
    else
        fail("Socket.IO packet %.2s where none was due", c->aside_packet);
    flush(c);
}

static void finish_message(struct connection *c, uint64_t time)
{
    if (c->aside) {
        take_aside(c);
        return;
    }
    const struct reply *reply = &replies[c->reply_index];
    if (c->message_opcode != reply->opcode || c->message_length != reply->payload.length)
        fail("wrong reply: %zu bytes of type %d, not %zu of type %d", c->message_length,
             c->message_opcode, reply->payload.length, reply->opcode);
    c->reply_index = (c->reply_index + 1) % reply_count;
    if (reply->last)
        take_reply(c, time);
}

/* ---- Receiving ---- */

static void compare(struct connection *c, const uint8_t *data, size_t length)
{
    const struct bytes *expected = &replies[c->reply_index].payload;
    if (c->message_length + length > expected->length ||
        memcmp(expected->data + c->message_length, data, length) != 0)
        fail("wrong reply: other bytes");
    c->message_length += length;
}

static void inflate_piece(struct connection *c, const uint8_t *data, size_t length)
{
    uint8_t out[16384];
    z_stream *stream = c->inflater;
    stream->next_in = (uint8_t *)data;
    stream->avail_in = length;
    do {
        stream->next_out = out;
        stream->avail_out = sizeof out;
        int result = inflate(stream, Z_SYNC_FLUSH);
        if (result != Z_OK && result != Z_BUF_ERROR)
            fail("wrong reply: does not inflate");
        compare(c, out, sizeof out - stream->avail_out);
    } while (stream->avail_out == 0);
}

static void begin_frame(struct connection *c)
{
    int first = c->header[0], length = c->header[1];
    c->final = first & 0x80;
    c->opcode = first & 0x0f;
    c->in_payload = true;
    c->header_length = 0;
    if (length & 0x80 || first & (c->deflate ? 0x30 : 0x70))
        fail("a masked frame, or a reserved bit");
    if (c->opcode >= CLOSE) {
        c->control_length = 0;
        if (length > 125)
            fail("a long control frame");
    } else if (c->opcode != 0) {
        c->message_opcode = c->opcode;
        c->compressed = first & 0x40;
        c->message_length = 0;
        c->aside = false;
    }
}

/* Take bytes of a frame's header. Returns how many. */
static size_t take_header(struct connection *c, const uint8_t *data, size_t length)
{
    size_t used = 0;
    while (used < length) {
        c->header[c->header_length++] = data[used++];
        if (c->header_length < 2)
            continue;
        int code = c->header[1] & 0x7f;
        int bytes_of_length = code == 126 ? 2 : code == 127 ? 8 : 0;
        if (c->header_length < 2 + bytes_of_length)
            continue;
        c->frame_left = bytes_of_length ? 0 : code;
        for (int i = 0; i < bytes_of_length; i++)
            c->frame_left = c->frame_left << 8 | c->header[2 + i];
        begin_frame(c);
        break;
    }
    return used;
}

static void take_payload(struct connection *c, const uint8_t *data, size_t length)
{
    if (length == 0)
        return;
    if (c->opcode >= CLOSE) {
        memcpy(c->control + c->control_length, data, length);
        c->control_length += length;
        return;
    }
    if (options.event && c->message_length == 0 && c->message_opcode == TEXT)
        c->aside = c->state == JOINING || data[0] == '2';
    if (c->aside) {
        for (size_t i = 0; i < length && c->message_length + i < 2; i++)
            c->aside_packet[c->message_length + i] = data[i];
        c->message_length += length;
    } else if (c->compressed) {
        inflate_piece(c, data, length);
    } else {
        compare(c, data, length);
    }
}

static void finish_frame(struct connection *c, uint64_t time)
{
    c->in_payload = false;
    if (c->opcode == PING) {
        send_urgent(c, 0x80 | PONG, c->control, c->control_length);
        flush(c);
    } else if (c->opcode == CLOSE) {
        if (c->state != CLOSING)
            fail("the server closed a connection with %d after %llu replies",
                 c->control[0] << 8 | c->control[1], (unsigned long long)c->received);
        finish(c);
    } else if (c->opcode != PONG && c->final) {
        if (c->compressed) {
            inflate_piece(c, (const uint8_t *)"\0\0\xff\xff", 4);
            compressed_replies++;
        }
        finish_message(c, time);
    }
}

static void take_frames(struct connection *c, const uint8_t *data, size_t length, uint64_t time)
{
    while (length > 0) {
        if (!c->in_payload) {
            size_t used = take_header(c, data, length);
            data += used;
            length -= used;
            if (!c->in_payload)
                return;
        }
        size_t piece = length < c->frame_left ? length : c->frame_left;
        take_payload(c, data, piece);
        data += piece;
        length -= piece;
        c->frame_left -= piece;
        if (c->frame_left > 0)
            return;
        uint64_t life = c->started;
        finish_frame(c, time);
        if (c->started != life)
            return;  /* that was its end, and it has begun anew */
    }
}

/* What is due once all that has come is read, so that it leaves in one piece. */
static void react(struct connection *c)
{
    static const uint8_t goodbye[2] = {1000 >> 8, 1000 & 0xff};
    if (c->state != OPEN)
        return;
    if (options.mode == ECHO && opened == options.connections && c->in_flight < options.window) {
        send_messages(c, options.window - c->in_flight);
    } else if (options.mode == CONNECT && c->received == 1) {
        c->state = CLOSING;
        send_urgent(c, 0x80 | CLOSE, goodbye, 2);
        flush(c);
    }
}

/* ---- The handshake ---- */

static void send_request(struct connection *c)
{
    char request[1024];
    int length = snprintf(
        request, sizeof request,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
        options.path, options.port,
        options.deflate ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
                        : "");
    c->state = HANDSHAKE;
    if (write(c->fd, request, length) != length)
        fail("the request: %s", strerror(errno));
    want_writable(c, false);
}

static void judge_response(struct connection *c, const char *response)
{
    if (strncmp(response, "HTTP/1.1 101 ", 13) != 0)
        fail("the handshake was answered with %.80s", response);
    /* RFC 6455, 1.3: what the sample key must be answered with. */
    if (!strstr(response, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))
        fail("a wrong Sec-WebSocket-Accept");
    c->deflate = strcasestr(response, "permessage-deflate");
    if (options.deflate && !c->deflate)
        fail("permessage-deflate was not agreed on");
    if (!c->deflate)
        return;
    char *window = strcasestr(response, "client_max_window_bits=");
    if (window && atoi(strchr(window, '=') + 1) < 10)
        fail("a compression window of less than 10 bits");
    if (!c->inflater) {
        c->inflater = allocate(sizeof *c->inflater);
        inflateInit2(c->inflater, -15);
    }
    inflateReset(c->inflater);
}

/* Look at the response, and read it alone once it is whole: frames may be behind it. */
static void read_response(struct connection *c)
{
    char response[4096];
    ssize_t length = recv(c->fd, response, sizeof response - 1, MSG_PEEK);
    if (length <= 0) {
        if (length < 0 && errno == EAGAIN)
            return;
        fail("the handshake was not answered");
    }
    response[length] = 0;
    char *end = strstr(response, "\r\n\r\n");
    if (!end) {
        if (length == sizeof response - 1)
            fail("a long response: %.80s", response);
        return;
    }
    end += 4;
    if (recv(c->fd, response, end - response, 0) != end - response)
        fail("the response: %s", strerror(errno));
    *end = 0;
    judge_response(c, response);
    if (options.event)
        c->state = JOINING;
    else
        become_open(c);
}

/* ---- The loop ---- */

static void read_frames(struct connection *c)
{
    static uint8_t buffer[1 << 18];
    ssize_t length = read(c->fd, buffer, sizeof buffer);
    if (length > 0) {
        take_frames(c, buffer, length, now());
        react(c);
    } else if (length == 0 || errno != EAGAIN) {
        errno = length == 0 ? 0 : errno;
        lost(c);
    }
}

static void handle(struct connection *c, uint32_t events)
{
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error)
            fail("connect: %s", strerror(error));
        send_request(c);
        return;
    }
    if (events & EPOLLOUT) {
        uint64_t life = c->started;
        flush(c);
        if (c->started != life)
            return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        if (c->state == HANDSHAKE)
            read_response(c);
        else
            read_frames(c);
    }
}

static void run_until(uint64_t end, bool (*enough)(void))
{
    struct epoll_event events[512];
    for (uint64_t time = now(); time < end && !(enough && enough()); time = now()) {
        if (publishing)
            publish();
        int n = epoll_wait(epoll, events, 512, (end - time) / 1000000 + 1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                handle(events[i].data.ptr, events[i].events);
            else
                stdin_ended = true;
        }
    }
}

static int opening;
static bool all_opened(void) { return opened == opening; }
static bool all_answered(void)
{
    for (int i = 0; i < opening; i++)
        if (connections[i].in_flight > 0)
            return false;
    return true;
}
static bool told_to_end(void) { return stdin_ended; }

static void open_all(void)
{
    while (opening < options.connections) {
        int first = opening;
        opening += OPENING_AT_ONCE;
        if (opening > options.connections)
            opening = options.connections;
        for (int i = first; i < opening; i++)
            start(&connections[i]);
        run_until(now() + PATIENCE, all_opened);
        if (opened < opening)
            fail("only %d of %d connections were opened", opened, options.connections);
        if (options.mode != IDLE)
            continue;
        for (int i = first; i < opening; i++)
            send_messages(&connections[i], 1);
        run_until(now() + PATIENCE, all_answered);
        if (!all_answered())
            fail("an echo did not come");
    }
}

static void idle(void)
{
    struct epoll_event event = {EPOLLIN, {.ptr = NULL}};
    open_all();
    printf("{\"opened\": %d}\n", opened);
    epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event);
    run_until(now() + (uint64_t)(options.seconds * SECOND), told_to_end);
}

static void measure(void)
{
    if (options.mode == CONNECT) {
        for (int i = 0; i < options.connections; i++)
            start(&connections[i]);
    } else {
        open_all();
        /* Some servers count a receiver as one only a while after their 101. */
        if (options.mode == BROADCAST)
            run_until(now() + SECOND / 2, NULL);
        publishing = options.mode == BROADCAST;
        for (int i = 0; options.mode == ECHO && i < options.connections; i++)
            send_messages(&connections[i], options.window - connections[i].in_flight);
    }
    run_until(now() + (uint64_t)(options.warmup * SECOND), NULL);
    measuring = true;
    double cpu = cpu_seconds();
    uint64_t begin = now();
    run_until(begin + (uint64_t)(options.seconds * SECOND), NULL);
    double elapsed = (double)(now() - begin) / SECOND;
    if (count == 0)
        fail("no reply in %.1f s", elapsed);
    printf("{\"per_second\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"compressed\": %s, "
           "\"load_cpu\": %.3f}\n",
           count / elapsed, percentile_us(0.5), percentile_us(0.99),
           compressed_replies ? "true" : "false", (cpu_seconds() - cpu) / elapsed);
}

/* ---- Options ---- */

static enum mode mode_named(const char *name)
{
    for (int i = 0; i < 4; i++)
        if (strcmp(name, mode_names[i]) == 0)
            return i;
    fail("no mode %s", name);
}

static void read_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"port", 1, 0, 'p'}, {"mode", 1, 0, 'm'}, {"path", 1, 0, 'u'}, {"connections", 1, 0, 'c'},
        {"window", 1, 0, 'k'}, {"size", 1, 0, 's'}, {"binary", 0, 0, 'b'}, {"deflate", 0, 0, 'z'},
        {"prefix", 1, 0, 'x'}, {"socketio", 1, 0, 'e'}, {"warmup", 1, 0, 'w'},
        {"seconds", 1, 0, 't'}, {0},
    };
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (option) {
        case 'p': options.port = atoi(optarg); break;
        case 'm': options.mode = mode_named(optarg); break;
        case 'u': options.path = optarg; break;
        case 'c': options.connections = atoi(optarg); break;
        case 'k': options.window = atoi(optarg); break;
        case 's': options.size = atol(optarg); break;
        case 'b': options.binary = true; break;
        case 'z': options.deflate = true; break;
        case 'x': options.prefix = optarg; break;
        case 'e': options.event = optarg; break;
        case 'w': options.warmup = atof(optarg); break;
        case 't': options.seconds = atof(optarg); break;
        default: exit(2);
        }
    }
    if (options.connections < 1 || options.window < 1 || options.window > MAX_WINDOW ||
        options.size < 1)
        fail("--connections and --size are 1 or more, --window is 1 to %d", MAX_WINDOW);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    read_options(argc, argv);
    if (options.event)
        prepare_socketio();
    else if (options.deflate)
        prepare_deflated();
    else
        prepare_plain();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    connections = allocate(options.connections * sizeof *connections);
    if (options.mode == IDLE)
        idle();
    else
        measure();
    return 0;
}
