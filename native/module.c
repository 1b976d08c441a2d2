#include "baton.h"
#include "box.h"
#include "calls.h"
#include "clerk.h"
#include "codec.h"
#include "delegation.h"
#include "deposit.h"
#include "descriptor.h"
#include "doorbell.h"
#include "exchange.h"
#include "frames.h"
#include "handle_cell.h"
#include "landing.h"
#include "lane.h"
#include "layout.h"
#include "ledger.h"
#include "local_ids.h"
#include "lock.h"
#include "native.h"
#include "quick_call.h"
#include "quick_files.h"
#include "quick_flocks.h"
#include "quick_handle.h"
#include "quick_lock.h"
#include "record.h"
#include "section.h"
#include "shared.h"
#include "system.h"
#include "thread_number.h"
#include "ticket.h"
#include "turns_object.h"
#include "word.h"
#include "zeromq.h"

static int
add_malformed(PyObject *module)
{
    PyObject *malformed = PyErr_NewExceptionWithDoc(
        "libos_ipc._native.Malformed", "Bytes from outside that are not what they should be.",
        PyExc_ValueError, NULL);
    if (malformed == NULL) {
        return -1;
    }
    native_state_of(module)->malformed = malformed;
    return PyModule_AddObjectRef(module, "Malformed", malformed);
}

/* What each file has to export, in order: the types of the state are kept for others. */
static int (*const setups[])(PyObject *module) = {
    codec_setup,      frames_setup,     layout_setup,      calls_setup,      system_setup,
    delegation_setup, quick_lock_setup, quick_files_setup, quick_flocks_setup, quick_call_setup,
    descriptor_setup, shared_setup,     doorbell_setup,    lane_setup,         ticket_setup,
    lock_setup,       exchange_setup,   clerk_setup,       handle_cell_setup,  quick_handle_setup,
    ledger_setup,     local_ids_setup,  zeromq_setup,      record_setup,       section_setup,
    box_setup,        word_setup,       landing_setup,      baton_setup,        turns_setup,
    deposit_setup,
};

static int
module_exec(PyObject *module)
{
    if (add_malformed(module) < 0 || thread_number_setup() < 0) {
        return -1;
    }
    for (size_t i = 0; i < sizeof setups / sizeof *setups; i++) {
        if (setups[i](module) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    Py_VISIT(native_state_of(module)->malformed);
    Py_VISIT(native_state_of(module)->ledger);
    Py_VISIT(native_state_of(module)->ticket);
    Py_VISIT(native_state_of(module)->descriptor);
    return 0;
}

static int
module_clear(PyObject *module)
{
    Py_CLEAR(native_state_of(module)->malformed);
    Py_CLEAR(native_state_of(module)->ledger);
    Py_CLEAR(native_state_of(module)->ticket);
    Py_CLEAR(native_state_of(module)->descriptor);
    return 0;
}

static void
module_free(void *module)
{
    module_clear(module);
}

/* An interpreter of its own lock gets a module of its own. On a build without the lock, importing
 * this module turns it on: the table of requests relies on it, and the extension has not run
 * there yet. */
static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "libos_ipc._native",
    .m_doc = "What has to be fast: the codec of the wire, the table of requests outstanding, and "
             "the accounts of a link.",
    .m_size = sizeof(struct native_state),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&module_def);
}
