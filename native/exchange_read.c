#include "exchange_parts.h"

#include "calls.h"
#include "doorbell.h"
#include "lane.h"
#include "ledger.h"
#include "ticket.h"

/* The ticket that an answer of this peer settles, if it can be settled here; borrowed. Only who has
 * sent a request by the exchange can do with a payload that nobody has decoded. */
static PyObject *
ticket_for(const struct exchange *exchange, uint64_t peer, uint64_t seq)
{
    const struct request *request = requests_find(outstanding_table(exchange->requests), seq);

    if (request == NULL || request->peer->node.key != peer ||
        !PyTuple_CheckExact(request->ticket) || PyTuple_GET_SIZE(request->ticket) != 2) {
        return NULL;
    }
    PyObject *ticket = PyTuple_GET_ITEM(request->ticket, 1);
    const bool fits = ticket_check(ticket) && ticket_number(ticket) == seq;
    return fits && !ticket_is_settled(ticket) ? ticket : NULL;
}

static int
note_line(PyObject *list, uint64_t number)
{
    PyObject *value = PyLong_FromUnsignedLongLong(number);
    const int added = value == NULL ? -1 : PyList_Append(list, value);
    Py_XDECREF(value);
    return added;
}

bool
exchange_is_ours(const struct exchange *exchange, uint64_t peer, PyObject *ledger,
                 const struct envelope *envelope, const struct header *header, bool messages)
{
    const bool known = header->code == RESP ? ticket_for(exchange, peer, header->seq) != NULL
                                            : header->code >= FIRST_USER_CODE && messages;
    return known && ledger_is_next(ledger, envelope->number, envelope->acked);
}

/* Hands a message of the program out. */
static int
hand_out(struct exchange *exchange, uint64_t peer, const struct header *header,
         PyObject *payload, PyObject *messages)
{
    PyObject *const fields[FIELDS] = {PyLong_FromUnsignedLongLong(peer),
                                      PyLong_FromUnsignedLongLong(header->code),
                                      PyLong_FromUnsignedLongLong(header->seq),
                                      Py_NewRef(payload)};
    PyObject *message = spares_make(&exchange->spares, exchange->message, fields);
    const int added = message == NULL ? -1 : PyList_Append(messages, message);

    Py_XDECREF(message);
    return added;
}

/* Settles the ticket of a request that is there. Takes the payload over. Its owner may sleep on the
 * seat, and not have been woken for what another reads. */
static void
settle(struct exchange *exchange, uint64_t seq, PyObject *payload, bool for_another)
{
    struct requests *table = outstanding_table(exchange->requests);
    PyObject *entry = requests_remove(table, requests_find(table, seq));

    if (for_another) {
        ticket_settle(PyTuple_GET_ITEM(entry, 1), payload);
    } else {
        ticket_settle_in_turn(PyTuple_GET_ITEM(entry, 1), payload, &exchange->relay.ready);
    }
    Py_DECREF(entry);
    if (for_another && exchange->waiting) {
        doorbell_nudge(exchange->doorbell, BELL_SEAT);
    }
}

/* Enters what a message says of the link. What there is no memory to note shows with the next one. */
static void
count(struct exchange *exchange, uint64_t peer, PyObject *ledger, const struct envelope *envelope,
      uint64_t size)
{
    const int found =
        ledger_receive(ledger, envelope->number, envelope->acked, size, LEDGER_RECENTLY);

    const bool drained = found >= 0 && (found & DRAINED) != 0 && exchange->watched;
    const bool news = drained || ledger_ack_due(ledger, exchange->ack_every);
    if (found < 0 || (news && note_line(exchange->news, peer) < 0)) {
        PyErr_WriteUnraisable(ledger);
    }
}

int
exchange_enter(struct exchange *exchange, uint64_t peer, PyObject *ledger,
               const struct envelope *envelope, const struct header *header, PyObject *payload,
               PyObject *messages)
{
    int result = 1;

    Py_INCREF(ledger); /* Python code may run, and the peer be forgotten */
    if (header->code == RESP) {
        settle(exchange, header->seq, payload, messages != NULL);
        count(exchange, peer, ledger, envelope, 0);
    } else if (hand_out(exchange, peer, header, payload, messages) < 0) {
        result = -1;
    } else {
        Py_DECREF(payload);
        count(exchange, peer, ledger, envelope, header->size);
    }
    Py_DECREF(ledger);
    return result;
}

/* Deals with a message that was found whole at a station. Its lane and ledger are kept. */
static int
read_whole(struct exchange *exchange, const struct station *station, PyObject *lane,
           PyObject *ledger, const struct envelope *envelope, const struct header *header,
           const struct found *found)
{
    const uint64_t peer = station->node.key;

    if (!exchange_is_ours(exchange, peer, ledger, envelope, header, found->messages != NULL)) {
        return 2;
    }
    PyObject *payload = lane_take(lane_of(lane), header);
    if (payload == NULL) {
        return -1;
    }
    /* From here on Python code may run, and the station be gone. */
    const int entered =
        exchange_enter(exchange, peer, ledger, envelope, header, payload, found->messages);
    if (entered < 0) {
        lane_put_back(lane_of(lane), envelope, header, payload);
    }
    return entered;
}

/* Reads the next message at a line where there is a station. 1, 0 if there is none, 2 if it is for
 * Python, -1. */
static int
read_one(struct exchange *exchange, unsigned line, const struct found *found)
{
    const struct station *station = exchange->stations.by_line[line];
    PyObject *lane = Py_NewRef(station->lane);
    PyObject *ledger = Py_NewRef(station->ledger);
    struct envelope envelope;
    struct header header;

    const enum lane_found there =
        lane_peek(lane_of(lane), exchange->max_message, &envelope, &header);
    int result = there == LANE_EMPTY ? 0 : 2;
    if (there == LANE_WHOLE) {
        station = exchange->stations.by_line[line]; /* others may have run meanwhile */
        result = station == NULL || station->lane != lane
                     ? 0
                     : read_whole(exchange, station, lane, ledger, &envelope, &header, found);
    }
    Py_DECREF(ledger);
    Py_DECREF(lane);
    return result;
}

static uint64_t *
left_word(struct exchange *exchange, unsigned line, uint64_t *bit)
{
    *bit = UINT64_C(1) << line % 64;
    return &exchange->left[line / 64 % BELL_WORDS];
}

static bool
is_left(struct exchange *exchange, unsigned line)
{
    uint64_t bit;
    return (*left_word(exchange, line, &bit) & bit) != 0;
}

/* Has Python look at this line: at once, or, if that cannot be, as soon as it is woken. */
static int
leave_line(struct exchange *exchange, unsigned line, const struct found *found)
{
    uint64_t bit;

    if (found->lines != NULL) {
        return note_line(found->lines, line);
    }
    *left_word(exchange, line, &bit) |= bit;
    exchange->some_left = true;
    return 0;
}

/* Sends what waits for room at this line. */
static void
flush_line(struct exchange *exchange, unsigned line)
{
    const struct station *station = exchange->stations.by_line[line];

    if (station != NULL) {
        PyObject *lane = Py_NewRef(station->lane); /* dropping what was sent may run Python code */
        if (lane_flush(lane_of(lane), LANE_TURN)) {
            bell_again(doorbell_bell(exchange->doorbell), line);
        }
        Py_DECREF(lane);
    }
}

/* Reads what is there, but not for ever. */
static int
read_messages(struct exchange *exchange, unsigned line, const struct found *found)
{
    for (unsigned i = 0; i < MOST_AT_ONCE; i++) {
        int result = 2; /* nobody that we know: for Python to look */
        const struct station *station = exchange->stations.by_line[line];
        if (station != NULL) {
            const bool reads = station->reads_from - 1 < exchange->reading && /* 0 is no reading */
                               (found->lines != NULL || !is_left(exchange, line));
            result = reads ? read_one(exchange, line, found) : 0;
        }
        if (result == 2) {
            return leave_line(exchange, line, found);
        }
        if (result <= 0) {
            return result;
        }
    }
    bell_again(doorbell_bell(exchange->doorbell), line);
    return 0;
}

static int
read_line(struct exchange *exchange, unsigned line, const struct found *found)
{
    flush_line(exchange, line);
    const int result = read_messages(exchange, line, found);
    const struct station *station = exchange->stations.by_line[line];

    if (station != NULL) {
        lane_taken(lane_of(station->lane));
    }
    return result;
}

int
exchange_read_rung(struct exchange *exchange, const struct found *found)
{
    uint64_t lines[BELL_WORDS];
    int result = 1;

    exchange->reading++;
    if (!bell_take(doorbell_bell(exchange->doorbell), lines)) {
        return 0;
    }
    for (unsigned line = 0; line < BELL_LINES; line++) {
        if (lines[line / 64] == 0) {
            line |= 63;
        } else if ((lines[line / 64] >> line % 64 & 1) != 0 &&
                   read_line(exchange, line, found) < 0) {
            bell_again(doorbell_bell(exchange->doorbell), line);
            result = -1;
        }
    }
    return result;
}

/* Adds the lines that waiting threads have left. */
static int
take_left(struct exchange *exchange, PyObject *lines)
{
    for (unsigned line = 0; line < BELL_LINES; line++) {
        if (is_left(exchange, line)) {
            uint64_t bit;
            if (note_line(lines, line) < 0) {
                return -1;
            }
            *left_word(exchange, line, &bit) &= ~bit;
        }
    }
    exchange->some_left = false;
    return 0;
}

PyObject *
exchange_take_list(PyObject **list)
{
    PyObject *taken = *list;
    PyObject *fresh = PyList_New(0);

    if (fresh == NULL) {
        return NULL;
    }
    *list = fresh;
    return taken;
}

PyObject *
exchange_left(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct exchange *exchange = exchange_of(self);

    if (exchange->some_left && take_left(exchange, exchange->lines) < 0) {
        return NULL;
    }
    PyObject *lines = exchange_take_list(&exchange->lines);
    PyObject *news = lines == NULL ? NULL : exchange_take_list(&exchange->news);
    PyObject *left = news == NULL ? NULL : PyTuple_Pack(2, lines, news);

    Py_XDECREF(news);
    Py_XDECREF(lines);
    return left;
}

/* Puts an empty list into the place of one of the exchange's, which becomes the tuple's. */
static void
exchange_give(PyObject *tuple, Py_ssize_t place, PyObject **list)
{
    PyObject *empty = PyTuple_GET_ITEM(tuple, place);
    PyTuple_SET_ITEM(tuple, place, *list);
    *list = empty;
}

/* All that is given is made before anything is read: what has been read cannot be lost then. */
PyObject *
exchange_read(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct exchange *exchange = exchange_of(self);
    PyObject *lists[3] = {PyList_New(0), PyList_New(0), PyList_New(0)};
    PyObject *result = NULL;

    if (lists[0] != NULL && lists[1] != NULL && lists[2] != NULL) {
        result = PyTuple_Pack(3, lists[0], lists[1], lists[2]);
    }
    const struct found found = {lists[0], exchange->lines};
    int read = result == NULL ? -1 : exchange_read_rung(exchange, &found);
    if (read >= 0 && exchange->some_left && take_left(exchange, exchange->lines) < 0) {
        read = -1;
    }
    if (read < 0 && result != NULL && PyList_GET_SIZE(found.messages) > 0) {
        PyErr_WriteUnraisable(self); /* they have been counted; what is wrong now shows again */
        read = 1;
    }
    if (read < 0) {
        Py_CLEAR(result);
    } else if (read == 0 && PyList_GET_SIZE(exchange->lines) + PyList_GET_SIZE(exchange->news) == 0) {
        Py_SETREF(result, Py_NewRef(Py_None));
    } else {
        exchange_give(result, 1, &exchange->lines);
        exchange_give(result, 2, &exchange->news);
    }
    for (int i = 0; i < 3; i++) {
        Py_XDECREF(lists[i]);
    }
    return result;
}
