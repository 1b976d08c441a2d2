/* A desk: where one process asks another what no interpreter is needed to answer.
 *
 * It lies in the memory of a lane, beside the channels, one for each direction. One question at a
 * time is on it: a whole message, without a link number. The other process's clerk (clerk.h) puts
 * the answer beside it, whatever waits in the channels and whoever has that interpreter's lock.
 *
 *     asker:  question -> asked -> ring the clerk ………………………………… answered? -> answer
 *     clerk:  ……………………………………………………… asked? -> question -> answer -> answered -> wake
 *
 * `asked` and `answered` are turns, stored after the bytes of which they speak. The clerk keeps the
 * turn that it answered last in memory of its own, and each side copies the other's bytes before it
 * looks at them: they may change under its eyes, if the other is hostile, or if it has asked again
 * without an answer. A copy may be of two questions then; its answer is for a turn that nobody awaits.
 *
 * An asker does not wait for long. The clerk may be pausing for a fork, or not know the question;
 * then the same is asked by a message like all others.
 */
#ifndef LIBOS_IPC_DESK_H
#define LIBOS_IPC_DESK_H

#include "bell.h"

/* Envelope and header: what is asked and answered here has no payload. */
enum { DESK_MESSAGE = 33, DESK_WORDS = 5 };

/* In shared memory, zeroed to begin with. */
struct desk {
    _Alignas(64) _Atomic uint32_t asked;
    _Atomic uint64_t question[DESK_WORDS];
    _Alignas(64) _Atomic uint32_t answered;
    _Atomic uint32_t asleep;    /* the asker sleeps on `answered` */
    _Atomic uint32_t processor; /* on which it was answered last, counted from 1 */
    _Atomic uint64_t answer[DESK_WORDS];
};

/* In shared memory too: how a process's clerk is called, by whoever has asked at one of its desks,
 * and whether there is one. */
struct reception {
    struct bell bell;
    _Atomic uint32_t open;
};

/* Where the reception lies in the memory of a process's bell. */
enum { RECEPTION_AT = 1024 };

/* The asker, one at a time: put a question on the desk. Its turn is another one than before. */
void desk_ask(struct desk *desk, uint32_t turn, const unsigned char question[DESK_MESSAGE]);

/* The asker: which turn has been answered, and the answer, which is for that turn if the turn has
 * not changed since. */
uint32_t desk_answered(const struct desk *desk);
void desk_read(const struct desk *desk, unsigned char answer[DESK_MESSAGE]);

/* The asker: sleep as long as `seen` is the turn answered, at the latest until `deadline`: 0, or an
 * errno: ETIMEDOUT, EINTR. Blocks. Looks for up to `spin` nanoseconds before it sleeps, if the clerk
 * has another processor. */
int desk_await(struct desk *desk, uint32_t seen, int64_t deadline, int64_t spin);

/* The asker's process: the desk is given up. Whoever awaits is woken, without an answer. */
void desk_abandon(struct desk *desk);

/* The clerk: the question and its turn, if that is another one than the last it saw. */
bool desk_take(const struct desk *desk, uint32_t *turn, unsigned char question[DESK_MESSAGE]);

/* The clerk: put the answer on the desk and wake who awaits it. */
void desk_answer(struct desk *desk, uint32_t turn, const unsigned char answer[DESK_MESSAGE]);

#endif
