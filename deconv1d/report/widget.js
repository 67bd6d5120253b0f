// The live view in a notebook: the words of explore.js go to Python as messages of a widget.
export default {
  render({model, el}) {
    const waiting = new Map();
    let asked = 0;
    // In a tree of its own, so that the page's style does not reach the rest of the notebook.
    const root = el.attachShadow({mode: "open"}), main = document.createElement("main");
    const style = document.createElement("style");
    style.textContent = model.get("style");
    root.append(style, main);
    // From outside the tree, keys seem to come from the widget itself: menus keep theirs.
    main.addEventListener("keydown", (event) => { if (deconv1d.typing(event.target)) event.stopPropagation(); });
    const receive = ({id, facts, message}) => {
      const answer = waiting.get(id);
      waiting.delete(id);
      if (answer) message === undefined ? answer.resolve(facts) : answer.reject(new Error(message));
    };
    model.on("msg:custom", receive);
    deconv1d.explore(main, async (address, body) => {
      const id = ++asked, blob = body instanceof Blob;
      const buffers = blob ? [await body.arrayBuffer()] : [];
      const answer = new Promise((resolve, reject) => waiting.set(id, {resolve, reject}));
      model.send({id, address, body: blob ? "" : body}, undefined, buffers);
      return answer;
    });
    return () => { model.off("msg:custom", receive); deconv1d.leave(); };
  },
};
