#define _GNU_SOURCE /* tgkill, gettid, sigset */

#include "clerk.h"

#include "arguments.h"
#include "clock.h"
#include "desk.h"
#include "lane.h"
#include "shared.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STACK_BYTES = 1 << 16, RESP = 0, PING = 57 };

/* How long the kernel may take to forget a thread that has ended. */
static const int64_t FORGET_NS = INT64_C(10) * NS_PER_S;

/* A desk that is served; nothing where the line has none. */
struct place {
    PyObject *memory; /* Shared, of the lane */
    struct desk *desk;
    uint32_t turn; /* of the question answered last */
};

struct clerk {
    PyObject_HEAD
    PyObject *memory; /* Shared, of the reception */
    struct reception *reception;
    struct looks looks; /* of the thread */
    bool begun;   /* there is to be a thread, if there is a desk */
    bool running; /* there is one, in the process `owner` */
    pid_t owner;
    pthread_t thread;
    _Atomic pid_t number; /* the thread's in the kernel */
    _Atomic bool stopping;
    pthread_mutex_t lock; /* of what follows, beside the interpreter lock, while the thread runs */
    size_t room;
    struct place *at; /* by line of the bell */
};

static struct clerk *
clerk_of(PyObject *self)
{
    return (struct clerk *)self;
}

/* ---- the thread; without the interpreter lock */

/* Whether the clerk knows the answer to this, and what it is. */
static bool
know(const unsigned char *question, unsigned char *answer)
{
    const unsigned char *head = question + ENVELOPE_SIZE;
    const uint64_t number = load_u64(question);
    const uint64_t size = load_u64(head);
    const uint64_t seq = load_u64(head + 8);

    if (number != 0 || size != HEADER_SIZE || seq == 0 || head[16] != PING) {
        return false;
    }
    store_envelope(answer, &(struct envelope){0, 0});
    store_header(answer + ENVELOPE_SIZE,
                 &(struct header){.size = HEADER_SIZE, .seq = seq, .code = RESP});
    return true;
}

static void
look_at(struct place *place)
{
    unsigned char question[DESK_MESSAGE];
    unsigned char answer[DESK_MESSAGE];

    if (place->desk != NULL && desk_take(place->desk, &place->turn, question) &&
        know(question, answer)) {
        desk_answer(place->desk, place->turn, answer);
    }
}

static void
look_at_rung(struct clerk *clerk, const uint64_t lines[BELL_WORDS])
{
    pthread_mutex_lock(&clerk->lock);
    for (unsigned word = 0; word < BELL_WORDS && word * 64 < clerk->room; word++) {
        for (uint64_t left = lines[word]; left != 0; left &= left - 1) {
            const size_t line = word * 64 + (size_t)__builtin_ctzll(left);
            if (line < clerk->room) {
                look_at(&clerk->at[line]);
            }
        }
    }
    pthread_mutex_unlock(&clerk->lock);
}

static void *
work(void *argument)
{
    struct clerk *clerk = argument;
    struct bell *bell = &clerk->reception->bell;
    uint32_t seen = atomic_load(&bell->count);
    uint64_t lines[BELL_WORDS];

    atomic_store(&clerk->number, (pid_t)syscall(SYS_gettid));
    while (!atomic_load(&clerk->stopping)) {
        if (bell_collect(bell, lines)) {
            look_at_rung(clerk, lines);
        }
        bell_sleep(bell, BELL_PORTER, INT64_MAX, &clerk->looks, &seen);
    }
    return NULL;
}

/* ---- its life; with the interpreter lock */

static bool
is_running(const struct clerk *clerk)
{
    return clerk->running && clerk->owner == getpid();
}

/* Signals are for the others: the main thread, where Python handles them, would not be interrupted by
 * one that the kernel gives to this thread. */
static int
create(struct clerk *clerk)
{
    pthread_attr_t attributes;
    sigset_t all, before;

    int failed = pthread_attr_init(&attributes);
    if (failed != 0) {
        return failed;
    }
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&clerk->thread, &attributes, work, clerk);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return failed;
}

/* Where the system has no thread for us, what is asked comes by messages. */
static void
begin(struct clerk *clerk)
{
    atomic_store(&clerk->stopping, false);
    atomic_store(&clerk->number, 0);
    atomic_store(&clerk->reception->bell.state, 0); /* who slept here is gone */
    clerk->owner = getpid();
    clerk->running = create(clerk) == 0;
    atomic_store(&clerk->reception->open, clerk->running);
}

/* Python warns of a fork when the kernel counts more than one thread, and it does so for a moment
 * after a thread has been joined. */
static void
await_kernel(pid_t process, pid_t thread)
{
    const int64_t deadline = now_ns() + FORGET_NS;

    while (syscall(SYS_tgkill, process, thread, 0) == 0 && now_ns() < deadline) {
        sched_yield();
    }
}

/* Returns when the thread is gone, for the kernel too. In a forked child it never was. */
static void
end(struct clerk *clerk)
{
    if (!is_running(clerk)) {
        clerk->running = false;
        return;
    }
    if (atomic_exchange(&clerk->stopping, true)) {
        return; /* another thread sees to it */
    }
    atomic_store(&clerk->reception->open, 0);
    bell_nudge(&clerk->reception->bell, BELL_PORTER);
    Py_BEGIN_ALLOW_THREADS
    pthread_join(clerk->thread, NULL);
    await_kernel(clerk->owner, atomic_load(&clerk->number));
    Py_END_ALLOW_THREADS
    clerk->running = false;
}

/* ---- desks */

static void
lock_places(struct clerk *clerk)
{
    if (is_running(clerk)) {
        pthread_mutex_lock(&clerk->lock);
    }
}

static void
unlock_places(struct clerk *clerk)
{
    if (is_running(clerk)) {
        pthread_mutex_unlock(&clerk->lock);
    }
}

/* Makes room for this line. -1 with MemoryError. */
static int
reserve(struct clerk *clerk, size_t line)
{
    if (line < clerk->room) {
        return 0;
    }
    size_t room = clerk->room == 0 ? 8 : clerk->room;
    while (room <= line) {
        room *= 2;
    }
    struct place *at = PyMem_Calloc(room, sizeof *at);
    if (at == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    lock_places(clerk);
    for (size_t i = 0; i < clerk->room; i++) {
        at[i] = clerk->at[i];
    }
    struct place *before = clerk->at;
    clerk->at = at;
    clerk->room = room;
    unlock_places(clerk);
    PyMem_Free(before);
    return 0;
}

static void
set_place(struct clerk *clerk, size_t line, struct place place)
{
    lock_places(clerk);
    PyObject *before = clerk->at[line].memory;
    clerk->at[line] = place;
    unlock_places(clerk);
    Py_XDECREF(before);
}

PyDoc_STRVAR(serve_doc, "serve($self, line, lane, /)\n--\n\n"
                        "Answer what is asked at this lane's desk, and rung at this line.");

static PyObject *
clerk_serve(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct clerk *clerk = clerk_of(self);
    uint64_t line;

    if (require_count("serve", nargs, 2) < 0 ||
        as_unsigned(args[0], "line", BELL_LINES - 1, &line) < 0) {
        return NULL;
    }
    if (!lane_check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "serve() takes a Lane");
        return NULL;
    }
    struct place place = {0};
    place.desk = lane_served_desk(lane_of(args[1]), &place.memory);
    if (place.desk == NULL || reserve(clerk, line) < 0) {
        return NULL;
    }
    Py_INCREF(place.memory);
    set_place(clerk, line, place);
    if (clerk->begun && !is_running(clerk)) {
        begin(clerk);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(leave_doc, "leave($self, line, /)\n--\n\n"
                        "There is no desk at this line any more, if there was one.");

static PyObject *
clerk_leave(PyObject *self, PyObject *argument)
{
    uint64_t line;

    if (as_unsigned(argument, "line", BELL_LINES - 1, &line) < 0) {
        return NULL;
    }
    if (line < clerk_of(self)->room) {
        set_place(clerk_of(self), line, (struct place){0});
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(start_doc, "start($self, /)\n--\n\n"
                        "Answer from now on, in a thread that is made when there are desks.");

static PyObject *
clerk_start(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct clerk *clerk = clerk_of(self);

    clerk->begun = true;
    if (!is_running(clerk) && clerk->room > 0) {
        begin(clerk);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_doc, "stop($self, /)\n--\n\n"
                       "Answer nothing, until `start`. Returns when the thread is gone. Blocks.");

static PyObject *
clerk_stop(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    clerk_of(self)->begun = false;
    end(clerk_of(self));
    Py_RETURN_NONE;
}

/* ---- the object */

static PyObject *
clerk_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"memory", "spin", NULL};
    PyObject *memory;
    double spin = 0;
    size_t size;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|d:Clerk", names, &memory, &spin)) {
        return NULL;
    }
    unsigned char *bytes = shared_memory(memory, &size);
    if (bytes == NULL) {
        return NULL;
    }
    if (size < RECEPTION_AT + sizeof(struct reception)) {
        PyErr_Format(PyExc_ValueError, "no reception fits into %zu bytes", size);
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self != NULL) {
        clerk_of(self)->memory = Py_NewRef(memory);
        clerk_of(self)->reception = (struct reception *)(void *)(bytes + RECEPTION_AT);
        clerk_of(self)->looks.ns = ns_of(spin);
        pthread_mutex_init(&clerk_of(self)->lock, NULL);
    }
    return self;
}

static void
clerk_dealloc(PyObject *self)
{
    struct clerk *clerk = clerk_of(self);
    PyTypeObject *type = Py_TYPE(self);

    end(clerk);
    for (size_t line = 0; line < clerk->room; line++) {
        Py_XDECREF(clerk->at[line].memory);
    }
    PyMem_Free(clerk->at);
    pthread_mutex_destroy(&clerk->lock);
    Py_XDECREF(clerk->memory);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
clerk_get_running(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(is_running(clerk_of(self)));
}

static PyMethodDef clerk_methods[] = {
    {"serve", NATIVE_METHOD(clerk_serve), METH_FASTCALL, serve_doc},
    {"leave", clerk_leave, METH_O, leave_doc},
    {"start", clerk_start, METH_NOARGS, start_doc},
    {"stop", clerk_stop, METH_NOARGS, stop_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef clerk_attributes[] = {
    {"running", clerk_get_running, NULL, "Whether there is a thread that answers.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(clerk_doc,
             "Clerk(memory, spin=0)\n--\n\n"
             "Who answers without the interpreter what is asked at the desks of lanes, and is called "
             "by a bell in this Shared memory. For `spin` seconds it looks before it sleeps, if that "
             "is worth while.");

static PyType_Slot clerk_slots[] = {
    {Py_tp_doc, (void *)clerk_doc},
    {Py_tp_new, clerk_new},
    {Py_tp_dealloc, clerk_dealloc},
    {Py_tp_methods, clerk_methods},
    {Py_tp_getset, clerk_attributes},
    {0, NULL},
};

static PyType_Spec clerk_spec = {
    .name = "libos_ipc._native.Clerk",
    .basicsize = sizeof(struct clerk),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = clerk_slots,
};

int
clerk_setup(PyObject *module)
{
    return native_add_type(module, &clerk_spec);
}
