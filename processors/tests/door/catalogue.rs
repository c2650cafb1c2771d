//! Products: created, read with their tags, replaced, found, removed.

use axum::{body::Body, http::Request};
use serde_json::json;

use crate::shop::{Answer, Shop, with_json};

async fn get_if(shop: &Shop, path: &str, tag: &str) -> Answer {
    let request = Request::get(path).header("if-none-match", tag);
    shop.send(request.body(Body::empty()).expect("a request"))
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_product_is_created_replaced_and_removed() {
    let shop = Shop::open().await;
    let tea = json!({ "sku": "tea/1", "name": "Green tea", "category": "Drinks", "price": 150 });
    let path = "/v1/products/tea%2F1";
    let created = shop.post("/v1/products", &tea).await;
    created.is(201);
    assert_eq!(created.headers["location"], path);
    shop.post("/v1/products", &tea)
        .await
        .is_problem(409, "duplicate-product");
    let read = shop.get(path).await;
    let expect = json!({
        "sku": "tea/1", "name": "Green tea", "category": "Drinks", "price": 150, "currency": "USD",
    });
    assert_eq!(read.is(200), expect);
    let tag = read.headers["etag"].to_str().expect("text").to_owned();
    assert_eq!(created.headers["etag"], tag.as_str());
    let unchanged = get_if(&shop, path, &format!("\"x\", W/{tag}")).await;
    unchanged.is(304);
    assert_eq!(unchanged.headers["etag"], tag.as_str());
    get_if(&shop, path, "\"x\"").await.is(200);

    let dearer = json!({ "name": "Green tea", "price": 200 });
    let replace = |tag: &str| {
        let mut request = with_json("PUT", path, dearer.to_string());
        request
            .headers_mut()
            .insert("if-match", tag.parse().expect("a header"));
        request
    };
    shop.send(replace("\"x\""))
        .await
        .is_problem(412, "product-changed");
    assert_eq!(shop.send(replace(&tag)).await.is(200)["price"], 200);
    get_if(&shop, path, &tag).await.is(200);
    let other = json!({ "sku": "milk", "name": "Milk", "price": 1 }).to_string();
    let problem = shop.send(with_json("PUT", path, other.clone())).await;
    assert_eq!(
        problem.is_problem(422, "invalid-product")["pointer"],
        "/sku"
    );
    let absent = with_json("PUT", "/v1/products/milk", other);
    shop.send(absent).await.is_problem(404, "no-such-product");

    let delete = || {
        Request::delete(path)
            .body(Body::empty())
            .expect("a request")
    };
    shop.send(delete()).await.is(204);
    shop.get(path).await.is_problem(404, "no-such-product");
    shop.send(delete()).await.is_problem(404, "no-such-product");
    shop.post("/v1/products", &tea).await.is(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn products_are_listed_and_found() {
    let shop = Shop::open().await;
    for (sku, name, category) in [
        ("1", "Green tea", "Drinks"),
        ("2", "Black tea", "Drinks"),
        ("3", "Teapot", "Kitchen"),
    ] {
        let body = json!({ "sku": sku, "name": name, "category": category, "price": 1 });
        shop.post("/v1/products", &body).await.is(201);
    }
    let skus = |answer: &Answer| -> Vec<String> {
        let json = answer.json();
        let items = json["items"].as_array().expect("items").iter();
        items
            .map(|p| p["sku"].as_str().expect("text").to_owned())
            .collect()
    };
    let first = shop.get("/v1/products?limit=2").await;
    assert_eq!(skus(&first), ["1", "2"]);
    let next = first.json()["next_cursor"]
        .as_str()
        .expect("more")
        .to_owned();
    let second = shop
        .get(&format!("/v1/products?limit=2&cursor={next}"))
        .await;
    assert_eq!(skus(&second), ["3"]);
    assert!(second.json().get("next_cursor").is_none());
    assert_eq!(
        skus(&shop.get("/v1/products?category=kitchen").await),
        ["3"]
    );
    assert_eq!(
        skus(&shop.get("/v1/products?query=green%20tea").await)[0],
        "1"
    );
    shop.get("/v1/products?cursor=zz")
        .await
        .is_problem(400, "invalid-parameter");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_products_are_told_what_is_wrong() {
    let shop = Shop::open().await;
    for (field, value) in [
        ("sku", json!("")),
        ("name", json!(" ")),
        ("name", json!("n".repeat(501))),
        ("price", json!(-1)),
        ("price", json!(1.5)),
        ("price", json!("1")),
        ("currency", json!("XXX")),
        ("stock", json!(1)),
        ("category", json!("")),
    ] {
        let mut body = json!({ "sku": "tea", "name": "Tea", "price": 1 });
        body[field] = value;
        let answer = shop.post("/v1/products", &body).await;
        assert_eq!(answer.is(422)["pointer"], format!("/{field}"));
    }
    let answer = shop
        .post("/v1/products", &json!({ "name": "Tea", "price": 1 }))
        .await;
    assert_eq!(answer.is(422)["pointer"], "/sku");
}
