//! The model as a core sees it: a backend, a bus and a clock.

use std::{cell::RefCell, future::poll_fn, rc::Rc, task::Poll};

use super::model::Model;
use crate::{
    base::id::GroupId,
    contract::{
        backend::{Backend, BackendEvent, CallError},
        bus::PushSource,
        methods::Method,
    },
};

pub type World = Rc<RefCell<Model>>;

pub struct ModelBackend {
    pub world: World,
    pub core: usize,
}

impl Backend for ModelBackend {
    async fn call<M: Method>(&self, request: M::Request) -> Result<M::Response, CallError> {
        let call_id = self.world.borrow_mut().submit(self.core, request.into());
        let response = poll_fn(|_| self.world.borrow_mut().answer(call_id)).await?;
        M::Response::try_from(response).map_err(|()| CallError::Internal)
    }

    fn on_event(&self, _: BackendEvent) {}

    fn advance(&self, _: u64) {}

    fn expire_calls(&self, _: u64) {}

    fn next_deadline_ms(&self) -> Option<u64> {
        None
    }

    fn pushes_in_doubt(&self) -> bool {
        false
    }
}

pub struct ModelBus {
    pub world: World,
    pub core: usize,
}

impl PushSource for ModelBus {
    async fn subscribe(&self, group: GroupId) {
        pause(&self.world, 3).await;
        self.world.borrow_mut().listening.insert((group, self.core));
    }

    fn unsubscribe(&self, group: GroupId) {
        self.world
            .borrow_mut()
            .listening
            .remove(&(group, self.core));
    }

    fn advance(&self, _: u64) {}
}

pub fn pause(world: &World, length_ms: u64) -> impl Future<Output = ()> + use<> {
    let until_ms = world.borrow().now_ms + length_ms;
    let world = Rc::clone(world);
    poll_fn(move |_| match world.borrow().now_ms >= until_ms {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
}
