/* python_lease.c: the types of what lease() returns, see shmqueue.leases.
 *
 * They are made with the public class, which documents them, as their base.  Small items are unpacked when they are
 * taken: their leases have `item` as a slot, which the interpreter reads without a call.  All others are unpacked when
 * they are first asked for, and have a type of their own.
 *
 * On a free-threaded build the critical section of a lease is that of its Ring.
 */
#include "python_loan.h"

#include <stddef.h>
#include <structmember.h>

#include "python_plain.h"

#define ring_of(lease) ((lease)->loan.ring)

/* An object that is made and freed for each item: its memory is kept once. */
static LeaseObject *new_object(module_state *state, PyTypeObject *type)
{
    PyObject *spare = state->spare_lease;
    if (spare == NULL) {
        return PyObject_GC_New(LeaseObject, type);
    }
    state->spare_lease = NULL;
    return (LeaseObject *)PyObject_Init(spare, type);
}

static void free_object(module_state *state, LeaseObject *lease)
{
#ifndef Py_GIL_DISABLED
    if (state->spare_lease == NULL && Py_TYPE(lease) == state->lease_type) {
        state->spare_lease = (PyObject *)lease;
        return;
    }
#endif
    (void)state;
    PyObject_GC_Del(lease);
}

void lease_free_spare(module_state *state)
{
    if (state->spare_lease != NULL) {
        PyObject_GC_Del(state->spare_lease);
        state->spare_lease = NULL;
    }
}

LeaseObject *lease_new(RingObject *ring, PyObject *load, PyObject *ended)
{
    PyTypeObject *type = state_of(ring)->lease_type;
    if (type == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "lease_types() was not called");
        return NULL;
    }
    Py_INCREF(ring); /* before the allocation: the collector may run any code then, which takes them from the queue */
    Py_INCREF(load);
    ended = ended != Py_None ? Py_NewRef(ended) : NULL;
    LeaseObject *lease = new_object(state_of(ring), type);
    if (lease == NULL) {
        Py_DECREF(ring);
        Py_DECREF(load);
        Py_XDECREF(ended);
        return NULL;
    }
    /* Field by field: what fills memory is dear for so little, and the record in `loan` means nothing yet. */
    lease->loan.ring = ring;
    lease->loan.hold = OVER;
    lease->loan.epoch = 0;
    lease->loan.may_move = lease->loan.is_seen = lease->loan.is_bytes = false;
    lease->loan.from = lease->loan.length = 0;
    lease->loan.copy = NULL;
    lease->loan.exports = 0;
    lease->item = NULL;
    lease->payload = NULL;
    lease->load = load;
    lease->ended = ended;
    lease->weak_references = NULL;
    return lease;
}

bool lease_fill(LeaseObject *lease, PyObject *item)
{
    lease->item = item;
    if (item != NULL) {
        Py_CLEAR(lease->load);
        loan_let_move(&lease->loan);
    } else {
        PyTypeObject *type = Py_TYPE(lease), *other = state_of(ring_of(lease))->unloaded_lease_type;
        Py_SET_TYPE((PyObject *)lease, (PyTypeObject *)Py_NewRef(other));
        Py_DECREF(type);
        if ((lease->payload = loan_payload(&lease->loan)) == NULL) {
            return false;
        }
    }
    if (item == NULL || PyObject_IS_GC(item) || lease->ended != NULL) {
        PyObject_GC_Track(lease);
    }
    return true;
}

/* Loads it from the payload.  False: an exception is set, and it can be tried again. */
static bool load_item(LeaseObject *lease)
{
    RingObject *ring = lease->loan.ring;
    uint32_t method = lease->loan.loan.method;
    PyObject *payload = Py_NewRef(lease->payload), *load = Py_NewRef(lease->load), *item = NULL;
    if ((method == PLAIN_MSGPACK || method == PLAIN_TUPLES) && (uint64_t)PyBytes_GET_SIZE(payload) <= UINT32_MAX) {
        item = plain_unpack((const unsigned char *)PyBytes_AS_STRING(payload), (uint32_t)PyBytes_GET_SIZE(payload),
                            method, keys_without_lock(ring));
    }
    if (item == NULL) {
        item = PyObject_CallFunction(load, "kO", (unsigned long)method, payload);
    }
    if (item != NULL && lease->item == NULL) { /* else another thread was faster: there is one item only */
        lease->item = Py_NewRef(item);
        Py_CLEAR(lease->payload);
        Py_CLEAR(lease->load);
    }
    Py_DECREF(payload);
    Py_DECREF(load);
    Py_XDECREF(item);
    return item != NULL;
}

static PyObject *Lease_item(LeaseObject *lease, void *Py_UNUSED(closure))
{
    PyObject *item;
    ALONE_BEGIN(ring_of(lease));
    item = lease->item != NULL || load_item(lease) ? Py_NewRef(lease->item) : NULL;
    ALONE_END();
    return item;
}

static PyObject *Lease_attempt(LeaseObject *lease, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(lease->loan.loan.attempt);
}

static PyObject *Lease_is_held(LeaseObject *lease, void *Py_UNUSED(closure))
{
    bool is_held;
    ALONE_BEGIN(ring_of(lease));
    is_held = loan_is_held(&lease->loan);
    ALONE_END();
    return PyBool_FromLong(is_held);
}

/* What a method returns that has ended the lease: `done` as of loan_finish(). */
static PyObject *after_end(LeaseObject *lease, int done)
{
    if (done >= 0 && lease->ended != NULL &&
        (!ring_of(lease)->fast_gets || !descriptor_is_true(ring_of(lease))) && !call_look(lease->ended)) {
        return NULL;
    }
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyObject *Lease_ack(LeaseObject *lease, PyObject *Py_UNUSED(ignored))
{
    return after_end(lease, loan_finish(&lease->loan));
}

static PyObject *Lease_requeue(LeaseObject *lease, PyObject *Py_UNUSED(ignored))
{
    return after_end(lease, loan_give_back(&lease->loan));
}

static PyObject *Lease_enter(LeaseObject *lease, PyObject *Py_UNUSED(ignored)) { return Py_NewRef((PyObject *)lease); }

/* False: an exception is set. */
static bool end_if_held(LeaseObject *lease, PyObject *kind)
{
    if (!loan_is_held(&lease->loan)) {
        return true;
    }
    PyObject *done = (kind == Py_None ? Lease_ack : Lease_requeue)(lease, NULL);
    Py_XDECREF(done);
    return done != NULL;
}

static PyObject *Lease_exit(LeaseObject *lease, PyObject *const *args, Py_ssize_t count)
{
    bool done;
    if (!count_is("__exit__", count, 3)) {
        return NULL;
    }
    ALONE_BEGIN(ring_of(lease));
    done = end_if_held(lease, args[0]);
    ALONE_END();
    return done ? Py_NewRef(Py_None) : NULL;
}

static int Lease_traverse(LeaseObject *lease, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(lease));
    Py_VISIT(lease->item);
    Py_VISIT(lease->load);
    Py_VISIT(lease->ended);
    return 0;
}

/* A method may be called even then.  An item that was loaded becomes None; one that was not, and could be, cannot refer
 * to the lease. */
static int Lease_clear(LeaseObject *lease)
{
    Py_CLEAR(lease->ended);
    if (lease->item != NULL) {
        Py_SETREF(lease->item, Py_NewRef(Py_None));
    }
    return 0;
}

static void Lease_dealloc(LeaseObject *lease)
{
    PyTypeObject *type = Py_TYPE(lease);
    PyObject_GC_UnTrack(lease);
    if (lease->weak_references != NULL) {
        PyObject_ClearWeakRefs((PyObject *)lease);
    }
    RingObject *ring = (RingObject *)Py_NewRef(ring_of(lease)); /* which keeps the state */
    loan_drop(&lease->loan);
    Py_XDECREF(lease->item);
    Py_XDECREF(lease->payload);
    Py_XDECREF(lease->load);
    Py_XDECREF(lease->ended);
    free_object(state_of(ring), lease);
    Py_DECREF(ring);
    Py_DECREF(type);
}

ALONE_PLAIN(Lease_ack, LeaseObject, ring_of(self))
ALONE_PLAIN(Lease_requeue, LeaseObject, ring_of(self))

static PyMethodDef Lease_methods[] = { /* documented in shmqueue.leases.Lease */
    {"ack", (PyCFunction)ALONE(Lease_ack), METH_NOARGS, "ack($self)\n--\n\n"},
    {"requeue", (PyCFunction)ALONE(Lease_requeue), METH_NOARGS, "requeue($self)\n--\n\n"},
    {"__enter__", (PyCFunction)Lease_enter, METH_NOARGS, "__enter__($self)\n--\n\n"},
    {"__exit__", (PyCFunction)(void (*)(void))Lease_exit, METH_FASTCALL,
     "__exit__($self, kind, error, traceback, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

#define WEAK_REFERENCES {"__weaklistoffset__", T_PYSSIZET, offsetof(LeaseObject, weak_references), READONLY, NULL}

static PyMemberDef Lease_members[] = {
    WEAK_REFERENCES,
    {"item", T_OBJECT_EX, offsetof(LeaseObject, item), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef Unloaded_members[] = {
    WEAK_REFERENCES,
    {NULL, 0, 0, 0, NULL},
};

#define ATTRIBUTES                                             \
    {"attempt", (getter)Lease_attempt, NULL, NULL, NULL},      \
        {"is_held", (getter)Lease_is_held, NULL, NULL, NULL}, \
    {                                                          \
        NULL, NULL, NULL, NULL, NULL                           \
    }

static PyGetSetDef Lease_attributes[] = {ATTRIBUTES};
static PyGetSetDef Unloaded_attributes[] = {{"item", (getter)Lease_item, NULL, NULL, NULL}, ATTRIBUTES};

#define SLOTS(members, attributes)                                                                                  \
    {                                                                                                               \
        {Py_tp_dealloc, Lease_dealloc}, {Py_tp_traverse, Lease_traverse}, {Py_tp_clear, Lease_clear},               \
            {Py_tp_methods, Lease_methods}, {Py_tp_getset, attributes}, {Py_tp_members, members}, {0, NULL},        \
    }

static PyType_Slot Lease_slots[] = SLOTS(Lease_members, Lease_attributes);
static PyType_Slot Unloaded_slots[] = SLOTS(Unloaded_members, Unloaded_attributes);

#define SPEC(called, its_slots)                                                                      \
    {                                                                                                \
        .name = called, .basicsize = sizeof(LeaseObject),                                            \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,        \
        .slots = its_slots,                                                                          \
    }

static PyType_Spec Lease_spec = SPEC("shmqueue.leases.NativeLease", Lease_slots);
static PyType_Spec Unloaded_spec = SPEC("shmqueue.leases.UnloadedNativeLease", Unloaded_slots);

PyObject *core_lease_types(PyObject *module, PyObject *base)
{
    module_state *state = PyModule_GetState(module);
    PyObject *type = PyType_FromModuleAndSpec(module, &Lease_spec, base);
    PyObject *unloaded = type != NULL ? PyType_FromModuleAndSpec(module, &Unloaded_spec, base) : NULL;
    if (unloaded == NULL) {
        Py_XDECREF(type);
        return NULL;
    }
    lease_free_spare(state);
    Py_XSETREF(state->lease_type, (PyTypeObject *)type);
    Py_XSETREF(state->unloaded_lease_type, (PyTypeObject *)unloaded);
    Py_RETURN_NONE;
}
