/* python_fast.c: put() and get() of a queue class, without a Python frame where they succeed at once.
 *
 * A FastMethod stands in a class in the place of a function.  A call that gives no timeout is tried here, on the Ring
 * that its queue (a FastPaths) has: one attempt, which waits for nothing.  Whatever is not done by that is left to the
 * function: waiting, timeouts, other items, a queue that is closed or damaged, and so every exception of put().
 */
#include "python_ring.h"

#include <structmember.h>

/* What a queue class inherits from. */
typedef struct {
    PyObject_HEAD
    RingObject *ring; /* NULL: everything goes by the functions */
} FastPathsObject;

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *function;
    PyTypeObject *queues; /* FastPaths */
    Py_ssize_t options;   /* how many arguments may follow: block, timeout */
    bool as_pickle;       /* put: see plain_pack() */
    PyObject *unpack;     /* get: for the payload of a msgpack record */
    PyObject *load;       /* get: (queue, method, payload) to the item of any other record */
    PyObject *dict;
} FastMethodObject;

/* ---- calls ---- */

/* As PyObject_TypeCheck(), without a call: whose fields an object has is told by the chain of these bases. */
static bool is_queue(const FastMethodObject *method, PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    while (type != NULL && type != method->queues) {
        type = type->tp_base;
    }
    return type != NULL;
}

#ifdef Py_GIL_DISABLED

/* The queue's ring, with a reference that drop_ring() gives back: another thread may take it from the queue. */
static RingObject *ring_of(FastPathsObject *queue)
{
    RingObject *ring;
    ALONE_BEGIN(queue);
    ring = (RingObject *)Py_XNewRef((PyObject *)queue->ring);
    ALONE_END();
    return ring;
}

static inline void drop_ring(RingObject *ring) { Py_XDECREF(ring); }

#else

static inline RingObject *ring_of(FastPathsObject *queue)
{
    RingObject *ring = queue->ring;
    return ring != NULL && is_usable(ring) ? ring : NULL;
}

static inline void drop_ring(RingObject *ring) { (void)ring; }

#endif

/* The ring that a call may try, NULL if there is none: it gives what is wanted, and maybe block and no timeout. */
static RingObject *ring_to_try(const FastMethodObject *method, PyObject *const *args, size_t nargsf, PyObject *keywords,
                               Py_ssize_t wanted)
{
    Py_ssize_t given = PyVectorcall_NARGS(nargsf);
    if (keywords != NULL || given < wanted || given > wanted + method->options || !is_queue(method, args[0])) {
        return NULL;
    }
    if ((given > wanted && args[wanted] != Py_True && args[wanted] != Py_False) ||
        (given > wanted + 1 && args[wanted + 1] != Py_None)) {
        return NULL;
    }
    return ring_of((FastPathsObject *)args[0]);
}

static PyObject *call_put(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    FastMethodObject *method = (FastMethodObject *)callable;
    RingObject *ring = ring_to_try(method, args, nargsf, keywords, 2);
    bool is_put = ring != NULL && ring->fast_puts && put_item_at_once(ring, args[1], method->as_pickle);
    drop_ring(ring);
    if (is_put) {
        Py_RETURN_NONE;
    }
    return PyObject_Vectorcall(method->function, args, nargsf, keywords);
}

static PyObject *call_get(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *keywords)
{
    FastMethodObject *method = (FastMethodObject *)callable;
    RingObject *ring = ring_to_try(method, args, nargsf, keywords, 1);
    PyObject *item;
    if (ring == NULL || !ring->fast_gets || !get_item_at_once(ring, &item)) {
        drop_ring(ring);
        return PyObject_Vectorcall(method->function, args, nargsf, keywords);
    }
    if (item == NULL || !is_record(ring, item)) {
        drop_ring(ring);
        return item;
    }
    PyObject *queue = Py_NewRef(args[0]); /* unpacking may run any code */
    Py_INCREF(ring);
    item = unpacked(ring, item, method->unpack);
    if (item != NULL && is_record(ring, item)) {
        PyObject *record = item, *arguments[] = {queue, PyTuple_GET_ITEM(record, 0), PyTuple_GET_ITEM(record, 1)};
        item = PyObject_Vectorcall(method->load, arguments, 3, NULL);
        Py_DECREF(record);
    }
    Py_DECREF(ring);
    drop_ring(ring);
    Py_DECREF(queue);
    return item;
}

/* ---- the type FastMethod ---- */

static PyObject *FastMethod_make(PyTypeObject *type, vectorcallfunc call, PyObject *function, Py_ssize_t options)
{
    module_state *state = PyType_GetModuleState(type);
    FastMethodObject *method = (FastMethodObject *)type->tp_alloc(type, 0);
    if (method != NULL) {
        method->call = call;
        method->function = Py_NewRef(function);
        method->options = options;
        method->queues = (PyTypeObject *)Py_NewRef((PyObject *)state->fast_paths_type);
    }
    return (PyObject *)method;
}

static PyObject *FastMethod_put(PyObject *type, PyObject *args)
{
    PyObject *function;
    Py_ssize_t options;
    int as_pickle;
    if (!PyArg_ParseTuple(args, "Onp:put", &function, &options, &as_pickle)) {
        return NULL;
    }
    PyObject *method = FastMethod_make((PyTypeObject *)type, call_put, function, options);
    if (method != NULL) {
        ((FastMethodObject *)method)->as_pickle = as_pickle;
    }
    return method;
}

static PyObject *FastMethod_get(PyObject *type, PyObject *args)
{
    PyObject *function, *unpack, *load;
    Py_ssize_t options;
    if (!PyArg_ParseTuple(args, "OnOO:get", &function, &options, &unpack, &load)) {
        return NULL;
    }
    PyObject *method = FastMethod_make((PyTypeObject *)type, call_get, function, options);
    if (method != NULL) {
        ((FastMethodObject *)method)->unpack = Py_NewRef(unpack);
        ((FastMethodObject *)method)->load = Py_NewRef(load);
    }
    return method;
}

static PyObject *FastMethod_bind(PyObject *method, PyObject *queue, PyObject *Py_UNUSED(type))
{
    return queue == NULL || queue == Py_None ? Py_NewRef(method) : PyMethod_New(method, queue);
}

static int FastMethod_traverse(FastMethodObject *method, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(method));
    Py_VISIT(method->function);
    Py_VISIT(method->queues);
    Py_VISIT(method->unpack);
    Py_VISIT(method->load);
    Py_VISIT(method->dict);
    return 0;
}

static int FastMethod_clear(FastMethodObject *method)
{
    Py_CLEAR(method->function);
    Py_CLEAR(method->queues);
    Py_CLEAR(method->unpack);
    Py_CLEAR(method->load);
    Py_CLEAR(method->dict);
    return 0;
}

static void FastMethod_dealloc(FastMethodObject *method)
{
    PyTypeObject *type = Py_TYPE(method);
    PyObject_GC_UnTrack(method);
    FastMethod_clear(method);
    type->tp_free(method);
    Py_DECREF(type);
}

static PyMethodDef FastMethod_methods[] = {
    {"put", FastMethod_put, METH_VARARGS | METH_CLASS,
     "put(function, options, as_pickle): see shmqueue.items.fast_put."},
    {"get", FastMethod_get, METH_VARARGS | METH_CLASS,
     "get(function, options, unpack, load): see shmqueue.items.fast_get."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef FastMethod_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(FastMethodObject, call), READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(FastMethodObject, dict), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef FastMethod_attributes[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot FastMethod_slots[] = {
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, FastMethod_bind},
    {Py_tp_traverse, FastMethod_traverse},
    {Py_tp_clear, FastMethod_clear},
    {Py_tp_dealloc, FastMethod_dealloc},
    {Py_tp_methods, FastMethod_methods},
    {Py_tp_members, FastMethod_members},
    {Py_tp_getset, FastMethod_attributes},
    {0, NULL},
};

PyType_Spec FastMethod_spec = {
    .name = "shmqueue.engine.native._core.FastMethod",
    .basicsize = sizeof(FastMethodObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = FastMethod_slots,
};

/* ---- the type FastPaths ---- */

static PyObject *FastPaths_use(FastPathsObject *queue, PyTypeObject *type, PyObject *const *args, Py_ssize_t count,
                               PyObject *Py_UNUSED(keywords))
{
    module_state *state = PyType_GetModuleState(type);
    if (!count_is("_use_fast_paths", count, 1)) {
        return NULL;
    }
    bool is_ring = PyObject_TypeCheck(args[0], state->ring_type);
    RingObject *before, *ring = is_ring ? (RingObject *)Py_NewRef(args[0]) : NULL;
    ALONE_BEGIN(queue);
    before = queue->ring;
    queue->ring = ring;
    ALONE_END();
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

static void FastPaths_dealloc(FastPathsObject *queue)
{
    PyTypeObject *type = Py_TYPE(queue);
    Py_CLEAR(queue->ring);
    type->tp_free(queue);
    Py_DECREF(type);
}

static PyMethodDef FastPaths_methods[] = {
    {"_use_fast_paths", (PyCFunction)(void (*)(void))FastPaths_use, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     "_use_fast_paths(engine): have the FastMethods try this engine first, if it is native."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot FastPaths_slots[] = {
    {Py_tp_doc, "Base of queue classes whose methods are FastMethods."},
    {Py_tp_dealloc, FastPaths_dealloc},
    {Py_tp_methods, FastPaths_methods},
    {0, NULL},
};

PyType_Spec FastPaths_spec = {
    .name = "shmqueue.engine.native._core.FastPaths",
    .basicsize = sizeof(FastPathsObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = FastPaths_slots,
};
