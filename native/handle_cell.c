#include "handle_cell.h"

#include "arguments.h"
#include "baton.h"
#include "deposit.h"
#include "record.h"

#include <structmember.h>

static struct handle_cell *
cell_of(PyObject *self)
{
    return (struct handle_cell *)self;
}

static bool
is_any(const PyObject *crowd)
{
    return crowd != NULL && crowd != Py_None;
}

bool
handle_cell_lock(struct handle_cell *cell, uint32_t agent, uint32_t state)
{
    struct deposit *deposit = deposit_of(cell->deposit);

    if (cell->user != 0 || is_any(cell->waits) || state > cell->state || cell->owner_died ||
        (deposit != NULL && !deposit_take_back(deposit, cell->state))) {
        return false;
    }
    cell->user = agent;
    cell->using = state;
    return true;
}

bool
handle_cell_may_unlock(const struct handle_cell *cell, uint32_t agent)
{
    return cell->user == agent && cell->recall == 0 && !is_any(cell->waits) && cell->told == 0 &&
           !is_any(cell->baton);
}

void
handle_cell_unlock(struct handle_cell *cell)
{
    cell->user = 0;
    cell->using = HANDLE_INVALID;
}

/* ---- for the leader to take */

static bool
is_idle(const struct handle_cell *cell)
{
    return cell->opened > 0 && cell->state > HANDLE_INVALID && cell->user == 0 &&
           cell->recall == 0 && cell->told == 0 && !is_any(cell->waits) && !is_any(cell->watches) &&
           !cell->owner_died && !is_any(cell->baton);
}

void
handle_cell_put(const struct handle_cell *cell)
{
    struct deposit *deposit = deposit_of(cell->deposit);

    if (deposit != NULL && is_idle(cell)) {
        deposit_put(deposit, cell->state, cell->number, record_of(cell->record));
    }
}

/* ---- by the baton */

static bool
is_version(PyObject *value, uint64_t version)
{
    if (value == NULL || !PyTuple_Check(value) || PyTuple_GET_SIZE(value) != 2 ||
        !PyLong_CheckExact(PyTuple_GET_ITEM(value, 0))) {
        return false;
    }
    const uint64_t known = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(value, 0));
    PyErr_Clear();
    return known == version;
}

/* What has been taken becomes the value: `fresh`, which is filled, unless it is known. -1 with
 * MemoryError. Runs no Python code. */
static int
read_value(struct handle_cell *cell, const struct baton *baton, PyObject *fresh)
{
    const void *data;
    size_t size;
    const uint64_t version = baton_value(baton, &data, &size);

    if (is_version(cell->value, version)) {
        return 0;
    }
    PyObject *number = PyLong_FromUnsignedLongLong(version);
    PyObject *bytes = PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
    if (number == NULL || bytes == NULL) {
        Py_XDECREF(number);
        Py_XDECREF(bytes);
        return -1;
    }
    PyTuple_SET_ITEM(fresh, 0, number);
    PyTuple_SET_ITEM(fresh, 1, bytes);
    Py_SETREF(cell->value, Py_NewRef(fresh)); /* a number and bytes, which end quietly */
    return 0;
}

/* The baton says it, but the record must not say anything else. */
static void
set_use(const struct handle_cell *cell, bool in_use)
{
    struct record *record = record_of(cell->record);

    if (record != NULL) {
        record_set_use(record, in_use);
    }
}

int
handle_cell_take(struct handle_cell *cell, uint32_t agent)
{
    if (cell->value == NULL || !PyTuple_Check(cell->value)) {
        return 0;
    }
    PyTypeObject *type = Py_TYPE(cell->value);
    PyObject *fresh = type->tp_alloc(type, 2); /* first: the collector may run others' code */
    if (fresh == NULL) {
        return -1;
    }
    struct baton *baton = baton_of(cell->baton);
    int taken = 0;
    if (baton != NULL && cell->user == 0 && cell->state == HANDLE_INVALID &&
        !is_any(cell->waits) && !is_any(cell->watches) && !cell->owner_died && baton_take(baton)) {
        taken = read_value(cell, baton, fresh) < 0 ? -1 : 1;
    }
    if (taken > 0) {
        set_use(cell, true);
        cell->user = agent;
        cell->using = cell->state = HANDLE_EXCLUSIVE;
        cell->own = 0;
    } else if (taken < 0) {
        baton_give(baton, 0, NULL, 0); /* if it was ended meanwhile, the machine sees that it is ours */
    }
    Py_DECREF(fresh);
    return taken;
}

bool
handle_cell_give(struct handle_cell *cell, uint32_t agent, PyObject *value)
{
    struct baton *baton = baton_of(cell->baton);
    PyObject *data = value == NULL ? NULL : PyTuple_GET_ITEM(value, 1);

    if (baton == NULL || cell->user != agent || cell->recall != 0 || is_any(cell->waits) ||
        is_any(cell->watches) || cell->told != 0 ||
        (data != NULL && PyBytes_GET_SIZE(data) > BATON_BYTES)) {
        return false;
    }
    if (data == NULL ? !baton_give(baton, 0, NULL, 0)
                     : !baton_give(baton, PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(value, 0)),
                                   PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data))) {
        return false;
    }
    set_use(cell, false);
    cell->user = 0;
    cell->using = cell->state = HANDLE_INVALID;
    return true;
}

bool
handle_cell_is_watched(const struct handle_cell *cell)
{
    return is_any(cell->watches);
}

static PyObject *
cell_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    PyObject *self = type->tp_alloc(type, 0);

    if (self != NULL) {
        cell_of(self)->opened = 1;
        cell_of(self)->state = HANDLE_INVALID;
        cell_of(self)->using = HANDLE_INVALID;
    }
    return self;
}

static int
cell_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(cell_of(self)->value);
    Py_VISIT(cell_of(self)->waits);
    Py_VISIT(cell_of(self)->watches);
    Py_VISIT(cell_of(self)->record);
    Py_VISIT(cell_of(self)->baton);
    Py_VISIT(cell_of(self)->deposit);
    return 0;
}

static int
cell_clear(PyObject *self)
{
    Py_CLEAR(cell_of(self)->value);
    Py_CLEAR(cell_of(self)->waits);
    Py_CLEAR(cell_of(self)->watches);
    Py_CLEAR(cell_of(self)->record);
    Py_CLEAR(cell_of(self)->baton);
    Py_CLEAR(cell_of(self)->deposit);
    return 0;
}

static void
cell_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    cell_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The type is known by what ends it, or ends what it is the base of. */
struct handle_cell *
handle_cell_of(PyObject *object)
{
    for (const PyTypeObject *type = Py_TYPE(object); type != NULL; type = type->tp_base) {
        if (type->tp_dealloc == cell_dealloc) {
            return cell_of(object);
        }
    }
    return NULL;
}

PyDoc_STRVAR(lock_now_doc,
             "lock_now($self, agent, state, /)\n--\n\n"
             "Get the lock, if that takes neither waiting nor a word.");

static PyObject *
cell_lock_now(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t agent, state;

    if (require_count("lock_now", nargs, 2) < 0 ||
        as_unsigned(args[0], "agent", UINT32_MAX, &agent) < 0 ||
        as_unsigned(args[1], "state", UINT32_MAX, &state) < 0) {
        return NULL;
    }
    return PyBool_FromLong(handle_cell_lock(cell_of(self), (uint32_t)agent, (uint32_t)state));
}

PyDoc_STRVAR(unlock_now_doc, "unlock_now($self, agent, /)\n--\n\n"
                             "Give up the lock, the value as it is, if nobody is to be told.");

static PyObject *
cell_unlock_now(PyObject *self, PyObject *argument)
{
    uint64_t agent;

    if (as_unsigned(argument, "agent", UINT32_MAX, &agent) < 0) {
        return NULL;
    }
    const bool may = handle_cell_may_unlock(cell_of(self), (uint32_t)agent);
    if (may) {
        handle_cell_unlock(cell_of(self));
    }
    return PyBool_FromLong(may);
}

PyDoc_STRVAR(is_idle_doc, "is_idle($self, /)\n--\n\n"
                          "Whether we have something that nobody here uses, with nobody to be told "
                          "of anything: then it may be taken.");

static PyObject *
cell_is_idle(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(is_idle(cell_of(self)));
}

static PyMethodDef cell_methods[] = {
    {"is_idle", cell_is_idle, METH_NOARGS, is_idle_doc},
    {"lock_now", NATIVE_METHOD(cell_lock_now), METH_FASTCALL, lock_now_doc},
    {"unlock_now", cell_unlock_now, METH_O, unlock_now_doc},
    {NULL, NULL, 0, NULL},
};

/* Numbers that the machine assigns are no members: an assignment that fails would leave something
 * in those. The closure is the place within the cell. */
#define AT(self, closure) (*(unsigned int *)(void *)((char *)(self) + (uintptr_t)(closure)))

static PyObject *
cell_get(PyObject *self, void *closure)
{
    return PyLong_FromUnsignedLong(AT(self, closure));
}

static int
cell_set(PyObject *self, PyObject *value, void *closure)
{
    uint64_t number;

    if (as_unsigned(value != NULL ? value : Py_None, "a number", UINT32_MAX, &number) < 0) {
        return -1;
    }
    AT(self, closure) = (unsigned int)number;
    return 0;
}

#define NUMBER(name, field, doc)                                                                  \
    {name, cell_get, cell_set, doc, (void *)offsetof(struct handle_cell, field)}

static PyGetSetDef cell_attributes[] = {
    NUMBER("opened", opened, "How often it is open here; 0 when it is not any more."),
    NUMBER("state", state, "What this process has."),
    NUMBER("user", user, "The agent that has the lock, 0 for none."),
    NUMBER("using", using, "As what that has it."),
    NUMBER("recall", recall, "The state to go down to, 0 for none."),
    NUMBER("told_user", told, "Whom the server takes for the user."),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef cell_members[] = {
    {"value", T_OBJECT, offsetof(struct handle_cell, value), 0, "The newest version here."},
    {"waits", T_OBJECT, offsetof(struct handle_cell, waits), 0, "Who waits for the lock."},
    {"watches", T_OBJECT, offsetof(struct handle_cell, watches), 0, "Who waits for a change."},
    {"record", T_OBJECT, offsetof(struct handle_cell, record), 0, "Where values are committed."},
    {"baton", T_OBJECT, offsetof(struct handle_cell, baton), 0,
     "By which EXCLUSIVE is taken and given."},
    {"deposit", T_OBJECT, offsetof(struct handle_cell, deposit), 0,
     "Where it may be taken while nobody uses it."},
    {"number", T_ULONGLONG, offsetof(struct handle_cell, number), 0,
     "The number of the last wait for the lock."},
    {"owner_died", T_BOOL, offsetof(struct handle_cell, owner_died), 0,
     "Whether the next one to lock is to be told."},
    {"own", T_BOOL, offsetof(struct handle_cell, own), 0,
     "Whether the value was committed here, after the last grant."},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(cell_doc, "HandleCell()\n--\n\n"
                       "What a process has of a sync handle; see native/handle_cell.h.");

static PyType_Slot cell_slots[] = {
    {Py_tp_doc, (void *)cell_doc},
    {Py_tp_new, cell_new},
    {Py_tp_dealloc, cell_dealloc},
    {Py_tp_traverse, cell_traverse},
    {Py_tp_clear, cell_clear},
    {Py_tp_methods, cell_methods},
    {Py_tp_getset, cell_attributes},
    {Py_tp_members, cell_members},
    {0, NULL},
};

static PyType_Spec cell_spec = {
    .name = "libos_ipc._native.HandleCell",
    .basicsize = sizeof(struct handle_cell),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = cell_slots,
};

int
handle_cell_setup(PyObject *module)
{
    return native_add_type(module, &cell_spec);
}
